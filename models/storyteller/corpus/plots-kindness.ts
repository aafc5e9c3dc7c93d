import { BREAK, MEET_HELPER, type Plot } from './plot.js';

export const rescue: Plot = {
  name: 'rescue',
  themes: [
    'about a rescue',
    'about a strange sound',
    'about {a species} who gets {a ct} as a thank-you',
    'about {hero}, who hears {sound}',
    'about {a fspecies} who is stuck',
  ],
  beats: [
    [
      '{He} had [very good|the best|sharp] ears, and {he} was proud of them.',
      'Nothing ever happened there, or so {he} thought.',
      '{He} often wished for an adventure, [though only a small one|as long as it ended before supper].',
    ],
    BREAK,
    [
      'One {weather} {day}, {hero} heard {sound}.',
      'But one {weather} {day}, there was a noise. It was {sound}.',
      'On a {weather} {day}, on {his} way home, {he} stopped. What was that? It was {sound}.',
    ],
    [
      '"Who is there?" {hero} [called|whispered], and {he} followed the sound.',
      '"[That is not the wind|Somebody is in trouble]," said {hero}, and went to see.',
      '{He} could have walked on. But {hero} was not like that, and followed the sound.',
    ],
    [
      'There, {trap}, was {a fspecies} named {friend}, stuck fast. "[Help|Please help me]!" said {friend}.',
      'And there {he} saw {friend} the {fspecies}, who was stuck {trap}. "I cannot get out," said {friend}.',
      '{Trap} {he} found {a fspecies} called {friend}. "I am stuck," said {friend}, and tried to smile.',
    ],
    [
      'First, {hero} [pulled|pushed|tugged] with all {his} might, but nothing moved.',
      'First, {hero} tried to [reach {fhim} with a stick|pull {fhim} out], but [{his} arms were too short|it was ' +
        'too heavy].',
    ],
    [
      'Then {he} [called for help, but only the echo answered|tried from the other side, but slipped]. {hero} felt ' +
        '{bad}.',
      'Next, {he} tried with [both hands|a rope of grass], but it was no use. {hero} felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"[Hold on|Do not worry]!" said {helper}. Together they {rescued}, and {friend} was free.',
      '"[Two are stronger than one|Let me help]," said {helper}. They {rescued}, and out came {friend}, ' +
        '[dusty|muddy] but well.',
      '{helper} saw at once what to do. They {rescued}. With a [pop|bump|great sigh], {friend} was free.',
    ],
    [
      '"How can I thank you?" said {friend}, and gave {hero} {a ct}. {hero} felt {good}.',
      '"This is for you," said {friend}, and {fhe} gave {hero} {a ct}. {hero} felt very {good}.',
      "The next day, a parcel lay on {hero}'s doorstep: {a ct}, from {friend}. {hero} felt {good}.",
    ],
  ],
  morals: [
    'even a small sound is worth following',
    'it is good to stop and listen',
    'many hands can move a heavy ' + 'load',
  ],
  keepsThing: true,
  ally: 'friend',
  questions: [
    {
      kind: 'sound',
      ask: ['What did {hero} hear?', 'What was the noise?'],
      answer: '{hero} heard {sound}.',
      keys: ['sound'],
    },
    {
      kind: 'stuck',
      ask: ['Who was stuck?', 'Who could not get out?'],
      answer: '{friend} the {fspecies} was stuck.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'trap',
      ask: ['Where was {friend}?', 'Where was {friend} stuck?', 'Where did {hero} find {friend}?'],
      answer: '{friend} was stuck {trap}.',
      keys: ['trap'],
    },
    {
      kind: 'rescued',
      ask: ['How did they free {friend}?', 'How was {friend} set free?'],
      answer: 'They {rescued}.',
      keys: ['rescued'],
    },
    {
      kind: 'thanks',
      ask: ['What did {friend} give {hero}?', 'What did {hero} get as a thank-you?'],
      answer: '{friend} gave {hero} {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', 'Who came to help?'],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
  ],
};

export const contest: Plot = {
  name: 'contest',
  themes: [
    'about {race}',
    'about {a species} in a race',
    'about a race with {a ct} as the prize',
    'about {hero} and {race}',
  ],
  beats: [
    [
      '{He} was not the fastest runner, but {he} loved to run.',
      '{He} had never won anything in {his} life.',
      '{He} had short legs and great plans.',
    ],
    BREAK,
    [
      'One {weather} {day}, it was time for {race}, and the prize was {a ct}.',
      'On a {weather} {day}, everybody came to {race}. The prize was {a ct}, and {hero} [dreamed of it|wanted it ' +
        'very much].',
      'One {weather} {day}, {hero} lined up for {race}. The winner was to get {a ct}.',
    ],
    [
      '{hero} had [practised for weeks|polished {his} shoes|eaten two breakfasts], and at the signal {he} ran.',
      '"Ready, steady, go!" [Away they went|Dust flew], and {hero} ran as never before.',
    ],
    [
      'At first {he} was last. Then {he} [passed one runner, and another|found {his} stride].',
      'At the first bend {he} fell over {his} own feet, but {he} got up again.',
      'Soon {his} legs ached, but {he} did not stop.',
    ],
    [
      'Then {he} saw {friend} the {fspecies} at the side of the road. {friend} {trouble}.',
      'Halfway, {he} heard somebody call. It was {a fspecies} named {friend}, who {trouble}.',
      'Near the end of the course sat {a fspecies} called {friend}, who {trouble}.',
    ],
    [
      'The others ran past. {hero} looked at the finish, and then at {friend}, and stopped.',
      '"If I stop now, I shall lose," thought {hero}. And {he} stopped.',
      '{hero} felt {bad}, for the finish was so near. But {he} could not run on.',
    ],
    [
      '{He} helped {friend}, and arm in arm they came in last, [long after the others|when the band was packing up].',
      '"Lean on me," {he} said. Slowly they walked to the finish, and came in last of all.',
      '{He} stayed until all was well again, and so {hero} and {friend} were the very last.',
    ],
    BREAK,
    [
      'The judge was {helper} the {pspecies}, who had seen everything.',
      'The judge, {a pspecies} named {helper}, [stood up|took off {phis} glasses|waited until it was quiet].',
      'At the finish stood {helper} the {pspecies}, who was the judge.',
    ],
    [
      '"[Fast legs are fine|Anybody can run]," said {helper}, "but a kind heart is better." And {phe} gave {hero} ' +
        'the {ct}.',
      '"Today the prize is not for the fastest but for the kindest," said {helper}, and {hero} got the {ct}.',
      '"{hero} wins," said {helper}, and held out the {ct}. [Nobody argued.|Everybody cheered.]',
    ],
    [
      '{hero} felt so {good} that {his} [ears turned pink|sore feet were forgotten].',
      '{friend} cheered the loudest, and {hero} felt {good}.',
      '{hero} felt very {good}, and let {friend} hold it all the way home.',
    ],
  ],
  morals: ['kindness is a way to win', 'there are things more important than winning', 'the last may be the first'],
  keepsThing: true,
  ally: 'friend',
  questions: [
    {
      kind: 'prize',
      ask: ['What was the prize?', 'What did {hero} win?', 'What could the winner get?'],
      answer: 'The prize was {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'race',
      ask: ['What race did {hero} run?', 'Which race was it?'],
      answer: '{hero} ran in {race}.',
      keys: ['race'],
    },
    {
      kind: 'whom',
      ask: ['Whom did {hero} help?', 'Who was helped by {hero}?', 'For whom did {hero} stop?'],
      answer: '{hero} helped {friend} the {fspecies}.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'trouble',
      ask: ['Why did {hero} stop?', 'Why did {hero} stop in the middle of the race?'],
      answer: '{hero} stopped because {friend} {trouble}.',
      keys: ['trouble'],
    },
    {
      kind: 'judge',
      ask: ['Who was the judge?', 'Who judged the race?'],
      answer: 'The judge was {a pspecies} named {helper}.',
      keys: ['pspecies', 'helper'],
    },
  ],
};
