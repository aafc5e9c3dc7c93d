import type { Random } from './random.js';

/** What the slots of a template stand for, e.g. { hero: 'Mira', species: 'fox' }. */
export type Slots = Readonly<Record<string, string>>;

type Node = string | { slot: string; article: boolean; capital: boolean } | { choices: Node[][] };

/**
 * A template is plain text with two kinds of brackets:
 *
 *   [a|b|c]    one of several, may nest, may be empty
 *   {hero}     a slot; {He} is the slot `he` with a capital; {a thing} puts "a" or "an" in front
 */
function parse(template: string): Node[] {
  let at = 0;
  const sequence = (): Node[] => {
    const nodes: Node[] = [];
    let text = '';
    while (at < template.length && template[at] !== '|' && template[at] !== ']') {
      const char = template[at++] as string;
      if (char !== '[' && char !== '{') {
        text += char;
        continue;
      }
      if (text) nodes.push(text);
      text = '';
      if (char === '{') {
        const end = template.indexOf('}', at);
        nodes.push(slotNode(template.slice(at, end)));
        at = end + 1;
      } else {
        const choices = [sequence()];
        while (template[at] === '|') {
          at++;
          choices.push(sequence());
        }
        if (template[at++] !== ']') throw new Error(`Expected ] in template: ${template}`);
        nodes.push({ choices });
      }
    }
    if (text) nodes.push(text);
    return nodes;
  };
  const nodes = sequence();
  if (at < template.length) throw new Error(`Expected the end at character ${at} of template: ${template}`);
  return nodes;
}

function slotNode(body: string): Node {
  const article = /^[aA] /.test(body);
  const name = article ? body.slice(2) : body;
  const capital = /^[A-Z]/.test(body);
  return { slot: name[0]!.toLowerCase() + name.slice(1), article, capital };
}

const parsed = new Map<string, Node[]>();

/** Fills a template. The names of the slots it used are added to `used`. */
export function expand(template: string, slots: Slots, random: Random, used?: Set<string>): string {
  let nodes = parsed.get(template);
  if (!nodes) parsed.set(template, (nodes = parse(template)));
  const render = (list: Node[]): string => {
    let out = '';
    for (const node of list) {
      if (typeof node === 'string') out += node;
      else if ('choices' in node) out += render(random.pick(node.choices));
      else {
        const value = slots[node.slot];
        if (value === undefined) throw new Error(`Unknown slot {${node.slot}} in template: ${template}`);
        used?.add(node.slot);
        const text = node.article ? withArticle(value) : value;
        out += node.capital ? capitalise(text) : text;
      }
    }
    return out;
  };
  return render(nodes);
}

/** The slots a template mentions, wherever they stand. */
export function slotsOf(template: string): string[] {
  return [...template.matchAll(/\{([^}]+)\}/g)].map((match) => {
    const name = (match[1] as string).replace(/^[aA] /, '');
    return name[0]!.toLowerCase() + name.slice(1);
  });
}

export function withArticle(noun: string): string {
  return (/^[aeiou]/i.test(noun) ? 'an ' : 'a ') + noun;
}

export function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
