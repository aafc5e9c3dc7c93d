import { BREAK, MEET_HELPER, type Plot } from './plot.js';

export const gift: Plot = {
  name: 'gift',
  themes: [
    'about a present for a friend',
    'about {a species} who makes {a ct}',
    'about making {a thing} for a friend',
    'about {hero} and a present for {friend}',
  ],
  beats: [
    [
      '{His} best friend was {friend} the {fspecies}, who {reason}.',
      'Next door lived {friend} the {fspecies}, {his} best friend, who {reason}.',
      '{He} had a dear friend, {a fspecies} named {friend}, who {reason}.',
    ],
    [
      '"I will make {a ct}, all by myself," {hero} decided, "and give it to {friend}."',
      'So {hero} wanted to make {friend} a present: {a ct}.',
      '"{friend} shall have {a ct}," said {hero}, "and I will make it with my own hands."',
    ],
    BREAK,
    [
      'One {weather} {day}, {he} set to work, but [something|one thing] was missing: {material}.',
      'On a {weather} {day} the {thing} was almost finished. Only {material} was missing.',
      'One {weather} {day}, {hero} had everything ready, except for {material}.',
    ],
    [
      'First, {he} looked {spot1}, but [there was only {junk1}|{he} found nothing but {junk1}].',
      'First, {he} searched {spot1}. [All {he} found was {junk1}.|There was {junk1}, and that was all.]',
    ],
    [
      'Then {he} asked the {neighbour}, who had none [left|to spare|either].',
      'Next, {he} went to the {neighbour}. "I used my last yesterday," said the {neighbour}.',
    ],
    [
      '{hero} felt {bad}. [Was there to be no present after all?|The day was nearly over.]',
      '"[Now I have no present,|What shall I do now?]" said {hero}, who felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"Did you say {material}?" asked {helper}. "I have that [in my pocket|at home|in my bag]. Take it!"',
      '{hero} told {phim} everything. "{Material}?" said {helper}. "[You may have mine|I have been keeping some for ' +
        'years]."',
      '"[What are you looking for?|Can I help?]" asked {helper}. "I need {material}," said {hero}. ' +
        'And {helper} had just that.',
    ],
    [
      'Soon the {ct} was finished. It was a little crooked, but [it was lovely|full of love|all the prettier for it].',
      'They finished the {ct} together, and it was [lovely|perfect|the finest in the land].',
      'With that, {hero} finished the {ct} before [supper|sunset|the clock struck six].',
    ],
    [
      'When {friend} saw it, {fhe} [clapped {fhis} hands|could hardly speak|jumped for joy]. "For me?" {fhe} asked. ' +
        '{hero} felt {good}.',
      '"For you," said {hero}, and {friend} [laughed with joy|hugged {him} tight]. {hero} felt very {good}.',
      '{friend} loved the {thing} at once. "Nobody has ever made me one before," {fhe} said, and {hero} felt {good}.',
    ],
  ],
  morals: ['the best presents are made by hand', 'giving is as good as getting', 'a present need not be perfect'],
  keepsThing: false,
  ally: 'friend',
  questions: [
    {
      kind: 'gift',
      ask: ['What did {hero} make?', 'What present did {hero} make?', "What was {hero}'s present?"],
      answer: '{hero} made {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'forwhom',
      ask: ['Who was the present for?', 'For whom did {hero} make the {thing}?', 'Who got the {thing}?'],
      answer: 'The {thing} was for {friend} the {fspecies}.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'reason',
      ask: ['Why did {hero} make the {thing}?', 'Why was the {thing} made?'],
      answer: '{hero} made it because {friend} {reason}.',
      keys: ['reason'],
    },
    {
      kind: 'material',
      ask: ['What was missing?', 'What did {hero} still need?', 'What did {hero} need for the {thing}?'],
      answer: '{hero} needed {material}.',
      keys: ['material'],
    },
    {
      kind: 'neighbour',
      ask: ['Whom did {hero} ask?', 'Whom did {hero} ask before meeting {helper}?'],
      answer: '{hero} asked the {neighbour}.',
      keys: ['neighbour'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', 'Who gave {hero} {material}?'],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'first',
      ask: ['Where did {hero} look first?', 'Where did {hero} search first?'],
      answer: 'First, {hero} looked {spot1}.',
      keys: ['spot1'],
    },
  ],
};

export const quarrel: Plot = {
  name: 'quarrel',
  themes: [
    'about two friends who quarrel',
    'about a quarrel over {a ct}',
    'about saying sorry',
    'about a quarrel between {hero} and {friend}',
  ],
  beats: [
    [
      '{He} did everything together with {his} best friend, {a fspecies} named {friend}.',
      '{His} best friend was {friend} the {fspecies}, and where one was, the other was not far away.',
      '{He} had known {friend} the {fspecies} for as long as {he} could remember.',
    ],
    BREAK,
    [
      'But one {weather} {day}, they had a quarrel about {a ct}, because {cause}.',
      'Then, one {weather} {day}, they quarrelled over {a ct}: {cause}.',
      'One {weather} {day}, there was trouble over {a ct}. It began because {cause}.',
    ],
    [
      '"[You never listen|That is not fair|You always do this]!" shouted {hero}. "[So do you|I do not care|Go away, ' +
        'then]!" ' +
        'shouted {friend}.',
      'Loud words were said, and then [a door was slammed|there was a long silence|both of them stamped off].',
      '"I will never play with you again," said {friend}. "Good," said {hero}. It was not good at all.',
    ],
    [
      '{hero} tried to play alone, but [it was no fun|half of every game was missing].',
      'First, {hero} tried to think of something else, but {he} could not.',
      '{hero} told {himself} that {he} did not mind. [That did not help.|It was not true.]',
    ],
    [
      "Then {he} went as far as {friend}'s door, [but did not dare to knock|and turned back]. {hero} felt {bad}.",
      'Then {he} waited for {friend} to come first, but nobody came. {hero} felt {bad}.',
      '{He} looked out of the window again and again. {hero} felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"A quarrel is like [a knot|a stone in a shoe|cold soup]," said {helper}. "You must {advice}."',
      '{helper} listened to the whole story. "Then go," {phe} said, "and {advice}."',
      '"I once lost a friend that way," said {helper}. "Do not wait. Go and {advice}."',
    ],
    [
      'So {hero} went to {friend} and {advised}. {friend} looked at the floor. "I am sorry too," {fhe} said.',
      'It was not easy, but {hero} went to see {friend} and {advised}. "I have missed you," said {friend}.',
      '{hero} knocked at last, and {advised}. For a moment it was quiet. Then {friend} [smiled|laughed].',
    ],
    [
      'From then on the {ct} belonged to both of them. {hero} felt {good}.',
      'They fetched the {ct} and shared it until [the stars came out|it was time for bed]. {hero} felt very {good}.',
      'And the {ct}? They shared it, [one day each|turn by turn], and {hero} felt {good}.',
    ],
  ],
  morals: [
    'a friend is worth more than any treasure',
    'somebody has to be the first to say sorry',
    'sharing makes a thing twice as nice',
  ],
  keepsThing: false,
  ally: 'friend',
  questions: [
    {
      kind: 'about',
      ask: ['What was the quarrel about?', 'What did {hero} and {friend} quarrel about?'],
      answer: 'They quarrelled about {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'withwhom',
      ask: ['With whom did {hero} quarrel?', 'Who quarrelled with {hero}?'],
      answer: '{hero} quarrelled with {friend} the {fspecies}.',
      keys: ['friend', 'fspecies'],
    },
    {
      kind: 'cause',
      ask: ['Why did they quarrel?', 'Why did {hero} and {friend} quarrel?', 'How did the quarrel begin?'],
      answer: 'They quarrelled because {cause}.',
      keys: ['cause'],
    },
    {
      kind: 'advice',
      ask: ['What did {helper} tell {hero} to do?', "What was {helper}'s advice?", 'What advice did {hero} get?'],
      answer: '{helper} told {hero} to {advice}.',
      keys: ['advice'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', "Who came to {hero}'s help?"],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'bad',
      ask: ['How did {hero} feel after the quarrel?', 'How did {hero} feel without {friend}?'],
      answer: '{hero} felt {bad}.',
      keys: ['bad'],
    },
  ],
};
