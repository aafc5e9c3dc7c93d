/** The word lists: who, where and what. Plots (plots-*.ts) say what happens. */

const list = (text: string): string[] => text.trim().split(/\s*,\s*/);

// Each role has names of its own, so that no two characters of a story are called the same.

export interface Names {
  she: string[];
  he: string[];
}

export const HERO_NAMES: Names = {
  she: list(`Mira, Luna, Poppy, Hazel, Willa, Nora, Tilly, Ivy, Pearl, Clara, Daisy, Ada, Bella, Freya, Rosa, Nell,
    Elsie, Zara, Yuki, Leila, Priya, Thea, Mabel, Kaya, Olive, Juno, Dora, Suki, Anya, Lotta`),
  he: list(`Finn, Milo, Jasper, Hugo, Theo, Oscar, Pip, Felix, Leo, Toby, Emil, Kofi, Ravi, Arlo, Basil, Ned, Sami, Max,
    Ollie, Casper, Dario, Ezra, Jonah, Kip, Nico, Silas, Gus, Ludo, Tobin, Ivo`),
};

export const FRIEND_NAMES: Names = {
  she: list(`Greta, Ines, Minna, Runa, Vera, Wanda, Biba, Saffi, Tamsin, Odette, Lily, Ella, Maya, Ruby, Cleo`),
  he: list(`Bram, Fritz, Quill, Rolf, Bruno, Henrik, Marlow, Rufus, Sven, Anton, Ben, Otis, Remy, Zeke, Noah`),
};

export const HELPER_NAMES: Names = {
  she: list(`Agatha, Beatrix, Cordelia, Dorothea, Ottilie, Petra, Rosalind, Sylvie, Tabitha, Ursula, Winifred, Matilda,
    Josefa, Henrietta, Philippa`),
  he: list(`Otto, Barnaby, Ambrose, Bertram, Cornelius, Erasmus, Gideon, Horatio, Leopold, Mortimer, Percival, Rupert,
    Walter, Augustus, Lionel`),
};

export const SPECIES = list(`fox, rabbit, hedgehog, mouse, badger, squirrel, otter, owl, bear, frog, duck, goose, mole,
  beaver, turtle, hare, lamb, goat, donkey, cat, puppy, pony, crow, robin, sparrow, wolf, raccoon, hamster, toad, fawn,
  elephant, penguin, panda, dragon, piglet, swan, heron, weasel, monkey, lizard`);

export const ADJECTIVES = list(`little, small, young, curious, shy, cheerful, quiet, kind, clever, gentle, busy, dreamy,
  careful, patient, sleepy, stubborn, merry, polite, hopeful, thoughtful`);

export const COLOURS = list(`red, blue, green, yellow, orange, purple, pink, white, silver, golden, brown, black`);

export const THINGS = list(`kite, scarf, ball, hat, lantern, umbrella, drum, whistle, button, bell, ribbon, toy boat,
  mitten, blanket, teapot, cup, basket, book, key, ring, feather, marble, spinning top, balloon, coat, flute, pebble,
  shell, paintbrush, cushion, mug, bucket, apron, necklace, sock, watch, bracelet, candle, box, cape, clock, pencil,
  fan, lamp, flag, crayon, kettle, music box, mirror, paper star, bow tie, compass, puppet, trumpet`);

/** Where a hero lives: always the same phrase after "lived", so that an answer can be checked. */
export const HOMES = list(`in a quiet forest, by a wide river, on a green hill, in a sunny meadow, near a small village,
  beside a deep lake, in a busy town, on a windy beach, at the edge of a pine wood, in an old garden,
  under a great oak tree, in a snowy valley, on a small island, at the foot of a mountain, on a quiet farm, by the sea,
  in a mossy hollow, beside a windmill, in an apple orchard, near a stone bridge, in an empty lighthouse,
  behind a waterfall, on a houseboat, in a field of clover, next to a ruined castle, in a bamboo grove,
  at the end of a long lane, in a town of crooked roofs, beside a railway station, above a bakery,
  in the attic of a library, on a cliff above the waves, by a lily pond, at the edge of a desert, near a market square,
  in a birch wood, behind the old post office, in a cave under the hills`);

/** Where a small thing may hide. */
export const SPOTS = list(`under a mossy log, behind the garden wall, in a hollow tree, beside the well,
  on top of a haystack, among the reeds, under the wooden bridge, between two big stones, inside an old boot,
  in the tall grass, under a pile of leaves, at the bottom of a ditch, in a rose bush, behind the barn, in a flower pot,
  on a low branch, under the stairs, in a wheelbarrow, in the strawberry patch, behind the milk cans,
  under a cabbage leaf, in an empty barrel, on the window sill, under the park bench, beside the gate post,
  under a toadstool, next to the scarecrow, in a heap of straw, on the roof of the shed, behind the bakery oven,
  in the roots of a willow, near the duckweed, under the kitchen table, at the end of the jetty, in a patch of nettles,
  behind the church tower, in the old rowing boat, on the third stair`);

/** What lies there instead. */
export const JUNK = list(`three acorns, a sleepy beetle, an old newspaper, a puddle, a few crumbs, a cross spider,
  two snails, a bent spoon, a bit of string, somebody's lunch, a dry leaf, a family of ants, a cold potato, some dust,
  a very surprised worm, half a biscuit`);

/** What the hero does each day. The ending comes back to it. */
export const HABITS = list(`counted the clouds, hummed an old tune, drank a mug of mint tea, swept the doorstep,
  watered the sunflowers, fed the fish in the pond, wrote three lines in a diary, baked a small loaf of bread,
  waved to the postman, polished the windows, ate a slice of honey cake, listened to the wind,
  drew a picture of the sky, stirred a pot of soup, read one page of a big book, danced three steps on the doorstep,
  whistled to the trees, looked for smooth stones, practised one cartwheel, told a joke to the scarecrow,
  picked a handful of berries, tidied the highest shelf, rolled down the nearest slope, said hello to the old tree,
  planted one seed, peeled an apple in one long curl, named a cloud after a friend, toasted a slice of bread`);

export const DAY_PARTS = list(`morning, afternoon, evening`);
export const WEATHERS = list(`rainy, windy, sunny, foggy, snowy, cloudy, frosty, warm, chilly, stormy, misty, bright`);
export const GOOD_FEELINGS = list(`happy, proud, thankful, cheerful, glad, joyful, peaceful, delighted, content,
  grateful`);
export const BAD_FEELINGS = list(`sad, worried, upset, lonely, gloomy, unhappy, miserable, troubled`);
export const GIVERS = list(`grandmother, grandfather, aunt, uncle, mother, father, sister, brother, cousin, godmother`);
export const NEIGHBOURS =
  list(`baker, miller, postman, shoemaker, fisherman, blacksmith, gardener, schoolteacher, tailor,
  beekeeper`);
