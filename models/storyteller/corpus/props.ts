/** What only some plots need. Columns of one row belong together (a fear and the road on which it is met). */

const rows = (text: string): string[][] =>
  text
    .trim()
    .replace(/\/\n/g, '/ ')
    .split('\n')
    .map((line) => line.trim().split(/\s*\/\s*/));

/** wish: where the hero had seen the thing. */
export const SOURCES = rows(`
  in a shop window
  in a picture book
  in a dream
  at the market
  in an old painting
  at the summer fair
  on a passing train
  in the hands of a traveller`);

/** wish: what it cannot be made from. */
export const STUFF = rows(`
  leaves and string
  clay and hope
  paper and glue
  old straw
  bark and moss
  twigs and honey
  mud and feathers
  two cardboard boxes`);

/** wish: the work that earns it, to do / done. */
export const JOBS = rows(`
  pick the plums / picked the plums
  paint the fence / painted the fence
  carry the firewood / carried the firewood
  wash the windows / washed the windows
  mend the roof / mended the roof
  rake the leaves / raked the leaves
  peel the potatoes / peeled the potatoes
  sweep the chimney / swept the chimney
  stack the hay / stacked the hay
  shell the peas / shelled the peas
  dig the vegetable patch / dug the vegetable patch
  fold the sheets / folded the sheets
  gather the nuts / gathered the nuts
  fill the water barrel / filled the water barrel`);

/** fear: of what / how it is met. */
export const FEARS = rows(`
  the dark / the path was as dark as ink
  thunder / thunder was rolling over the hills
  high places / the path ran along a high, narrow ledge
  deep water / the way led straight through deep water
  loud noises / the way led past the rattling sawmill
  the big forest / the way led through the big forest
  the creaky bridge / there was no way but over the creaky bridge
  the wind / the wind howled along the path
  tunnels / the way led through a long tunnel
  shadows / the path was full of shadows
  spiders / spiders had spun their webs across the path
  strangers / the street was full of strangers`);

/** fear: the trick against it, to do / done. */
export const TRICKS = rows(`
  hum a little tune / hummed a little tune
  count slowly to ten / counted slowly to ten
  take three deep breaths / took three deep breaths
  think of warm pancakes / thought of warm pancakes
  look straight ahead / looked straight ahead
  sing a silly song / sang a silly song
  take one small step at a time / took one small step at a time
  whisper a rhyme / whispered a rhyme
  hold on to a smooth stone / held on to a smooth stone
  pretend to be a lion / pretended to be a lion
  say the alphabet backwards / said the alphabet backwards
  smile at nothing in particular / smiled at nothing in particular`);

/** gift: why, said of the friend. */
export const REASONS = rows(`
  had a birthday
  was ill in bed
  had just moved into a new house
  was feeling homesick
  had learned to read
  had lost a tooth
  had nobody to play with
  was going on a long journey
  had been kind to everyone all winter`);

/** gift: what is still missing. */
export const MATERIALS = rows(`
  a bit of strong string
  a pot of glue
  some soft wool
  a piece of smooth wood
  a lump of beeswax
  a sharp needle
  a scrap of silk
  a small nail
  a strip of birch bark
  a handful of clay
  a pot of paint
  a twist of wire
  a sheet of stiff paper
  a long thread`);

/** obstacle: name / how it shows itself / first try, failed / second try, failed / what worked. */
export const OBSTACLES = rows(`
  a fallen tree / a great tree had fallen across the path / climb over it, but the bark was too slippery /
    crawl under it, but there was no room / dug a little tunnel under the trunk
  a flooded stream / the stream had flooded the path / jump across, but it was too wide /
    wade through, but the water was too quick / laid a long plank over the water
  a locked gate / the iron gate was locked / push it open, but it did not move /
    squeeze between the bars, but they stood too close together / lifted the latch with a bent twig
  a deep hole / a deep hole had opened in the road / jump over it, but it was too wide /
    walk around it, but brambles grew on both sides / filled the hole with branches and earth
  thick fog / thick fog lay over the path / follow the fence, but the fence came to an end /
    walk in a straight line, but ended up at the start again / followed the sound of the church bells
  deep snow / deep snow covered the path / walk through it, but sank in up to the chin /
    hop over it, but that was even worse / slid over the snow on a tin tray
  a broken bridge / the bridge was broken / mend it with grass, but the grass tore /
    swim across, but the water was too cold / built a raft from empty barrels
  a thorny hedge / a thorny hedge had grown across the lane / push through, but the thorns were too sharp /
    go around, but the hedge had no end / held the thorns back with two forked sticks
  a high wall / a high wall stood across the road / climb up, but the stones were too smooth /
    stand on a bucket, but it tipped over / made a ladder from rope and twigs
  a sleeping bull / a huge bull lay asleep across the path / tiptoe past, but a twig snapped and the bull grunted /
    ask politely, but the bull only snored / tickled the bull with a long straw until it rolled over
  sticky mud / the path had turned into sticky mud / run across, but got stuck at once /
    wait until it dried, but then it rained again / made a path of flat stones
  a pile of rocks / a pile of rocks had rolled onto the road / lift the biggest one, but it would not budge /
    climb over, but the rocks slid back down / rolled the rocks away with a strong branch`);

/** quarrel: why, with slots of its own. */
export const QUARRELS = rows(`
  they both wanted it at the same time
  they could not agree whose turn it was
  {hero} would not let {friend} touch it
  {friend} had borrowed it without asking
  {friend} had dropped it in a puddle`);

/** quarrel: what the wise one says, to do / done. */
export const ADVICE = rows(`
  say sorry first / said sorry first
  offer to take turns / offered to take turns
  listen before speaking / listened before speaking
  bring a flower and a kind word / brought a flower and a kind word
  tell the whole truth / told the whole truth
  bake a cake and share it / baked a cake and shared it
  start with a smile / started with a smile
  write a short letter / wrote a short letter`);

/** rescue: what is heard / where somebody is stuck / how they get free. */
export const SOUNDS = rows(`
  a tiny squeak
  a soft crying
  a faint knocking
  a very small sneeze
  a strange scratching
  a sad little sigh
  a weak whistle
  a muffled song`);
export const TRAPS = rows(`
  in a deep ditch
  in a bramble bush
  under a fallen branch
  between two big rocks
  in a muddy hole
  in an old fishing net
  behind a jammed door
  in a tangle of vines
  at the bottom of a dry well
  under an upturned cart
  inside a hollow log`);
export const RESCUES = rows(`
  made a rope out of ivy and pulled
  used a strong branch as a lever
  counted to three and pulled together
  dug with a flat stone until there was room
  pushed from one side and pulled from the other
  worked slowly and gently until the way was free`);

/** contest: the race / the trouble of somebody on the way. */
export const RACES = rows(`
  the spring race
  the summer race
  the race around the lake
  the race up the hill
  the race to the old mill
  the race through the meadow
  the sack race
  the harvest race
  the midwinter race`);
export const TROUBLES = rows(`
  had twisted an ankle
  had a thorn in one foot
  had lost the way
  had fallen into a ditch
  had dropped a basket of eggs
  was stuck in the mud
  was too tired to go on
  had stumbled over a root`);
