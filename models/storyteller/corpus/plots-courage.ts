import { BREAK, MEET_HELPER, type Plot } from './plot.js';

export const fear: Plot = {
  name: 'fear',
  themes: [
    'about {a species} who is afraid of {fear}',
    'about being brave',
    'about {a species} who learns to be brave',
    'about {hero}, who is afraid of {fear}',
  ],
  beats: [
    [
      'There was only one thing that {hero} was afraid of: {fear}.',
      '{hero} was afraid of {fear}, though {he} never spoke about it.',
      'But nobody knew {his} secret: {hero} was very much afraid of {fear}.',
    ],
    BREAK,
    [
      'One {weather} {day}, {his} friend {friend} the {fspecies} lay ill in bed. ' +
        '"I left my {ct} {spot}," said {friend}. "Could you bring it to me?"',
      'One {weather} {day}, {hero} visited {his} friend {friend} the {fspecies}, who had a bad cold. ' +
        '"If only I had my {ct}," said {friend}. "I left it {spot}."',
      'One {weather} {day}, a letter came from {friend} the {fspecies}. It said: "I am ill. My {ct} is still {spot}. ' +
        'Please bring it to me."',
    ],
    [
      '{hero} set out at once, but {challenge}.',
      'Of course {hero} wanted to help. But {challenge}.',
      '"I will fetch it," said {hero} [bravely|in a small voice]. But {challenge}.',
    ],
    [
      '{He} took two steps and ran all the way back.',
      '{His} [knees|whiskers|ears] trembled, and {he} turned around.',
      'The first time, {he} got as far as the corner before {his} heart began to thump.',
    ],
    [
      'Then {he} tried with both eyes shut, and walked straight into a [bush|post|puddle]. {hero} felt {bad}.',
      'The second time, {he} ran, [and ran back even faster|but {his} legs ran the wrong way]. {hero} felt {bad}.',
      '{He} tried once more, walking backwards, and fell over. {hero} felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"I am afraid of {fear} too," said {helper}. "But I have a trick: I {trick}."',
      '"When I am afraid, I {trick}," said {helper}. "It [always works|nearly always works|works for me]."',
      '"Everybody is afraid of something," said {helper}. "You only have to {trick}."',
    ],
    [
      'So {hero} {tricked}, and went on, and {spot} {he} found the {ct}.',
      '{hero} {tricked}. [It worked!|Step by step it grew easier.] And there, {spot}, was the {ct}.',
      'It sounded [silly|too easy], but {hero} {tricked}, and before {he} knew it {he} had found the {ct} {spot}.',
    ],
    [
      '{He} carried it to {friend}, who smiled [for the first time that day|from ear to ear]. {hero} felt {good}.',
      'When {he} gave it to {friend}, {hero} felt {good}, and [three inches|a good deal] taller.',
      '"You did it!" said {friend}, and took the {thing}. {hero} felt very {good}.',
    ],
  ],
  morals: ['even a small step is a brave step', 'everybody is afraid of something', 'being brave can be learned'],
  keepsThing: false,
  ally: 'helper',
  questions: [
    {
      kind: 'fear',
      ask: ['What was {hero} afraid of?', 'What did {hero} fear?'],
      answer: '{hero} was afraid of {fear}.',
      keys: ['fear'],
    },
    {
      kind: 'fetch',
      ask: ['What did {hero} bring to {friend}?', 'What did {hero} fetch for {friend}?'],
      answer: '{hero} brought {friend} the {ct}.',
      keys: ['ct'],
    },
    {
      kind: 'found',
      ask: ['Where was the {thing}?', 'Where did {hero} find the {ct}?', 'Where had {friend} left the {thing}?'],
      answer: 'The {thing} was {spot}.',
      keys: ['spot'],
    },
    {
      kind: 'ill',
      ask: ['Who was ill?', 'Who needed the {thing}?'],
      answer: '{friend} the {fspecies} was ill.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', "Who came to {hero}'s help?"],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'trick',
      ask: ['What trick did {hero} use?', 'What did {hero} do to be brave?', 'How did {hero} find courage?'],
      answer: '{hero} {tricked}.',
      keys: ['tricked'],
    },
  ],
};

export const obstacle: Plot = {
  name: 'obstacle',
  themes: [
    'about {a species} on a difficult journey',
    'about bringing {a ct} to a friend',
    'about {obstacle}',
    'about {hero} and {obstacle}',
  ],
  beats: [
    [
      "{His} friend {friend} the {fspecies} lived [far away|on the other side of the hill|a day's walk away].",
      '{He} had a friend, {friend} the {fspecies}, who lived [far away|two valleys away|over the hills].',
      'Far away lived {his} old friend, {a fspecies} named {friend}.',
    ],
    BREAK,
    [
      'One {weather} {day}, {hero} set out to bring {friend} {a ct}.',
      'On a {weather} {day}, {hero} packed {a ct} for {friend} and started out.',
      '"{friend} needs {a ct}," said {hero} one {weather} {day}, "and I have one to spare." Off {he} went.',
    ],
    [
      '[Halfway there|After an hour|Soon], {he} had to stop: {block}.',
      'All went well until {he} came around a corner. There {he} saw that {block}.',
      'But {he} had not gone far when {he} found that {block}.',
    ],
    [
      'First, {hero} tried to {try1}.',
      '{hero} tried to {try1}.',
      '"[Nothing simpler|Never mind]," said {hero}. {He} tried to {try1}.',
    ],
    [
      'Then {he} tried to {try2}.',
      'Next, {he} tried to {try2}. "[Bother|Oh dear|Fiddlesticks]," said {hero}.',
      '{He} thought hard and tried to {try2}.',
    ],
    [
      '{hero} felt {bad}. [Should {he} turn back?|Was this the end of the journey?|{friend} was waiting.]',
      '{hero} sat down at the side of the road and felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"[I know a way|I have an idea|We need a plan]," said {helper}. So together they {fixed}.',
      '"[Alone it cannot be done|One is too few|That is a job for two]," said {helper}. Side by side they {fixed}.',
      '"What a muddle," said {helper}, and began to [think|whistle|roll up {phis} sleeves]. In the end they {fixed}.',
    ],
    [
      'And the way was free! {hero} thanked {helper} and [ran|hurried|walked on].',
      '"It works!" cried {hero}, [waving goodbye|and thanked {helper} three times].',
      'A moment later {hero} stood on the other side. "[I could not have done it alone|Thank you, {helper}]," {he} ' +
        'said.',
    ],
    [
      "Before [nightfall|supper|dark], {he} knocked at {friend}'s door and gave {fhim} the {ct}. {hero} felt {good}.",
      '{friend} was already at the window. "My {ct}!" {fhe} cried, and {hero} felt very {good}.',
      'How {friend} laughed when {fhe} saw the {ct}! {hero} felt {good}.',
    ],
  ],
  morals: ['there is always a way', 'two heads are better than one', 'the third try may be the one that works'],
  keepsThing: false,
  ally: 'helper',
  questions: [
    {
      kind: 'bring',
      ask: ['What did {hero} bring to {friend}?', 'What did {hero} carry?', 'What did {hero} take to {friend}?'],
      answer: '{hero} brought {friend} {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'forwhom',
      ask: ['Who was the {thing} for?', 'Who got the {thing}?'],
      answer: 'The {thing} was for {friend} the {fspecies}.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'obstacle',
      ask: ['What was in the way?', 'What stopped {hero}?', 'What was the problem on the road?'],
      answer: '{Block}.',
      keys: ['block'],
    },
    {
      kind: 'fixed',
      ask: ['How did they get past?', 'How was the problem solved?', 'What did {hero} and {helper} do?'],
      answer: 'They {fixed}.',
      keys: ['fixed'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', "Who came to {hero}'s help?"],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'bad',
      ask: ['How did {hero} feel when nothing worked?', 'How did {hero} feel before meeting {helper}?'],
      answer: '{hero} felt {bad}.',
      keys: ['bad'],
    },
  ],
};
