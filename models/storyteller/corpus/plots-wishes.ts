import { BREAK, MEET_HELPER, type Plot } from './plot.js';

export const lost: Plot = {
  name: 'lost',
  themes: [
    'about {a ct} that gets lost',
    'about {a species} who loses {a ct}',
    'about something lost and found',
    'about {a thing} that goes missing',
  ],
  beats: [
    [
      'Most of all, {hero} loved {his} {ct}, a present from {his} {giver}.',
      '{His} greatest treasure was {a ct} that {his} {giver} had given {him}.',
      '{He} never went anywhere without {his} {ct}, which had been a gift from {his} {giver}.',
      '{His} {giver} had once given {him} {a ct}, and {he} loved it more than anything.',
    ],
    BREAK,
    [
      'One {weather} {day}, the {thing} was gone.',
      'But one {weather} {day}, {hero} reached for the {thing}, and it was not there.',
      'Then, one {weather} {day}, {he} could not find the {thing} anywhere.',
      'On a {weather} {day}, something terrible happened: the {thing} was lost.',
    ],
    [
      '{hero} felt {bad}. "[Where can it be?|It cannot just have walked away!|Oh no, oh no!]" {he} ' +
        '[said|cried|whispered].',
      '"[It was here yesterday|I had it a moment ago|Things do not simply vanish]," said {hero}, who felt {bad}.',
      '{hero} felt [so|very] {bad} that even [the birds|the trees|the clouds] seemed to go quiet.',
    ],
    [
      'First, {he} looked {spot1}, but [there was only {junk1}|{he} found nothing but {junk1}].',
      'First, {he} searched {spot1}. [All {he} found was {junk1}.|There was {junk1}, and that was all.]',
    ],
    [
      'Then {he} looked {spot2}, but [no {thing} was there either|that was no better|all {he} saw was {junk2}].',
      'Next, {he} searched {spot2}. "[Not here either|Nothing|Only {junk2}]," {he} sighed.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"Why do you look so {bad}?" asked {helper}. "I have lost my {ct}," said {hero}.',
      '"What is the matter?" asked {helper}. {hero} told {phim} about the lost {thing}.',
      '"You look as if you had lost something," said {helper}. "My {ct}," said {hero}. "It is gone."',
    ],
    [
      '{helper} [scratched {phis} head|thought for a moment|closed {phis} eyes to think]. "Come," {phe} said. ' +
        '"Let us look {spot}."',
      '"[Two can search better than one|Four eyes see more than two]," said {helper}, "and I think we should look ' +
        '{spot}."',
      '"I saw something {colour} {spot} [this morning|not long ago|on my walk]," said {helper}. "Follow me!"',
    ],
    [
      'And there, {spot}, lay the {ct}, [a little muddy but whole|a little damp|as good as new].',
      'Together they looked {spot}, and there it was: the {ct}!',
      'So they went together, and {spot} they found the {ct}, [safe and sound|just waiting|none the worse for its ' +
        'adventure].',
    ],
    [
      '"[You found it|Thank you, {helper}|Oh, thank you]!" cried {hero}, who felt very {good}.',
      '{hero} hugged {helper} and felt [very|so] {good}. "[It was nothing,|What are friends for?]" said {helper}.',
      '"[Hooray|There you are]!" cried {hero}, and {he} felt so {good} that {he} [danced in a circle|laughed out ' +
        'loud].',
    ],
  ],
  morals: ['four eyes see more than two', 'nothing is lost while a friend is looking', 'it is wise to ask for help'],
  keepsThing: true,
  ally: 'helper',
  questions: [
    {
      kind: 'lost',
      ask: ['What did {hero} lose?', 'What was lost?', 'What was {hero} looking for?'],
      answer: '{hero} lost {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'giver',
      ask: ['Who gave {hero} the {thing}?', 'Who was the {thing} from?'],
      answer: '{hero} got the {thing} from {his} {giver}.',
      keys: ['giver'],
    },
    {
      kind: 'found',
      ask: ['Where was the {thing} found?', 'Where was the {thing}?', 'Where did they find the {ct}?'],
      answer: 'The {thing} was found {spot}.',
      keys: ['spot'],
    },
    {
      kind: 'first',
      ask: ['Where did {hero} look first?', 'Where did {hero} search first?'],
      answer: 'First, {hero} looked {spot1}.',
      keys: ['spot1'],
    },
    {
      kind: 'helper',
      ask: ['Who helped {hero}?', 'Who helped {hero} find the {thing}?'],
      answer: '{A pspecies} named {helper} helped {hero}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'bad',
      ask: ['How did {hero} feel when the {thing} was gone?', 'How did {hero} feel at first?'],
      answer: '{hero} felt {bad}.',
      keys: ['bad'],
    },
  ],
};

export const wish: Plot = {
  name: 'wish',
  themes: [
    'about {a species} who wants {a ct}',
    'about a wish that comes true',
    'about wishing for {a thing}',
    'about {a species} who works for a wish',
  ],
  beats: [
    [
      '{He} had one wish: {a ct}. {He} had seen one {source}, and could not forget it.',
      'More than anything, {hero} wanted {a ct}, like the one {he} had seen {source}.',
      'Ever since {he} had seen {a ct} {source}, {hero} wished for one too.',
      '{He} could not stop thinking of {a ct}, for {he} had seen one {source} and wanted one just like it.',
    ],
    BREAK,
    [
      'One {weather} {day}, {hero} decided to [do something about it|stop waiting|try {his} luck].',
      'One {weather} {day}, {he} could wait no longer.',
      '"[Wishing alone is not enough|Today is the day]," said {hero} one {weather} {day}.',
    ],
    [
      'First, {he} tried to make one out of {stuff}, but it fell apart [at once|with a sad little sound|in the ' +
        'first breeze].',
      'First, {he} built one from {stuff}. It looked [rather|very] odd, and then it fell to pieces.',
      '{He} began by making one out of {stuff}. It lasted [almost a minute|until lunch|one breath], and then it broke.',
    ],
    [
      'Then {he} asked the {neighbour}, who [only shook his head|had none to spare|laughed, but had none].',
      'Next, {he} went to the {neighbour}. "I am sorry," said the {neighbour}, "I have none."',
      'Then {he} offered the {neighbour} [three shiny stones|{his} whole lunch|two pennies] for one, but it was not ' +
        'enough.',
    ],
    [
      '{hero} sat down and felt {bad}.',
      '{hero} felt {bad} and [kicked a small stone|sighed a long sigh|looked at the sky].',
      '"[I shall never have one|It is no use]," said {hero}, and {he} felt {bad}.',
    ],
    BREAK,
    MEET_HELPER,
    [
      '"I have {a ct} at home," said {helper}. "Help me {job}, and it is yours."',
      '"[Why the long face?|What is wrong?]" asked {helper}. {hero} explained. "Well," said {helper}, ' +
        '"if you help me {job}, I will give you my own {ct}."',
      '"Somebody must help me {job}," said {helper}. "I cannot pay, but I do have {a ct}." {hero} jumped up at once.',
    ],
    [
      'So {hero} {jobbed} [all day long|until the sun went down|without a single break], and {helper} hummed along.',
      'It was hard work, but {hero} {jobbed} [and did not complain|from end to end|until every bit was done].',
      'Side by side with {helper}, {hero} {jobbed}. [It was more fun than {he} had thought.|Soon they were laughing.]',
    ],
    [
      'Then {helper} kept {phis} word and gave {him} the {ct}.',
      '"You have earned this," said {helper}, and put the {ct} into {his} [hands|arms].',
      'When it was done, {helper} came out with the {ct}. "A promise is a promise," {phe} said.',
    ],
    [
      '{hero} felt so {good} that {he} [forgot {his} tired legs|could not say a word|had to sit down].',
      '"It is even better than in my dreams!" said {hero}, who felt very {good}.',
      '{hero} held the {thing} close and felt {good}.',
    ],
  ],
  morals: ['a wish needs a little work', 'helping others is never wasted', 'a promise should be kept'],
  keepsThing: true,
  ally: 'helper',
  questions: [
    {
      kind: 'want',
      ask: ['What did {hero} want?', 'What did {hero} wish for?', "What was {hero}'s wish?"],
      answer: '{hero} wanted {a ct}.',
      keys: ['ct'],
    },
    {
      kind: 'source',
      ask: ['Where had {hero} seen {a ct}?', 'Where had {hero} seen one before?'],
      answer: '{hero} had seen one {source}.',
      keys: ['source'],
    },
    {
      kind: 'stuff',
      ask: ['What did {hero} try to make the {thing} from?', 'What did {hero} use to make one?'],
      answer: '{hero} tried to make it out of {stuff}.',
      keys: ['stuff'],
    },
    {
      kind: 'neighbour',
      ask: ['Whom did {hero} ask for {a thing}?', 'Whom did {hero} ask?'],
      answer: '{hero} asked the {neighbour}.',
      keys: ['neighbour'],
    },
    {
      kind: 'job',
      ask: ['What did {hero} do for {helper}?', 'How did {hero} help {helper}?', 'What work did {hero} do?'],
      answer: '{hero} {jobbed}.',
      keys: ['jobbed'],
    },
    {
      kind: 'gave',
      ask: ['Who gave {hero} the {ct}?', 'From whom did {hero} get the {thing}?'],
      answer: '{A pspecies} named {helper} gave {hero} the {ct}.',
      keys: ['pspecies', 'helper'],
    },
    {
      kind: 'bad',
      ask: ['How did {hero} feel before meeting {helper}?', 'How did {hero} feel when nothing worked?'],
      answer: '{hero} felt {bad}.',
      keys: ['bad'],
    },
  ],
};
