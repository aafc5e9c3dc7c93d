import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers';
import { InvalidRequestError, ModelError } from '#nano/errors';
import type { ModelFiles } from '#nano/platform/files';
import { type ChatMessage, ChatTemplate, type ChatTemplateOptions } from '#nano/utils/chat-template';
import { isJsonObject, type JsonObject, parseJsonObject } from '#nano/utils/json';

export interface EncodeOptions {
  /**
   * Adds what the tokenizer puts around every text, such as Llama's beginning-of-sequence token (Qwen3
   * has none). Texts made by a chat template have it already: pass false for them.
   */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leaves out `<|im_end|>` and its like. */
  skipSpecialTokens?: boolean;
}

/** Text to token ids and back, and chat messages to text. */
export class Tokenizer {
  private readonly hf: HfTokenizer;
  private readonly tokens: readonly (string | undefined)[];
  private readonly addedIds: ReadonlySet<number>;
  private readonly specialIds: ReadonlySet<number>;
  private readonly addSpecialTokens: boolean;
  private readonly template: ChatTemplate | undefined;
  /**
   * Whether a token stands for a fixed run of UTF-8 bytes (GPT-2's scheme, used by Qwen and Llama 3). Then the
   * text of many tokens is their bytes, one after the other.
   */
  readonly isByteLevel: boolean;
  /** The token that ends a turn, as tokenizer_config.json has it. config.json may name more. */
  readonly eosTokenId: number | undefined;

  /**
   * @param tokenizerJson text of tokenizer.json: vocabulary, merges, how to split text
   * @param configJson text of tokenizer_config.json: special tokens, chat template
   * @param chatTemplate text of chat_template.jinja, where newer models keep the template
   * @throws ModelError when a text is not what it should be.
   */
  constructor(tokenizerJson: string, configJson = '{}', chatTemplate?: string) {
    const json = parseJsonObject(tokenizerJson, 'tokenizer.json');
    const config = parseJsonObject(configJson, 'tokenizer_config.json');
    try {
      this.hf = new HfTokenizer({ added_tokens: [], ...json }, config);
    } catch (cause) {
      throw new ModelError(`tokenizer.json is not supported: ${(cause as Error).message}`, { cause });
    }
    this.tokens = this.hf.model?.vocab ?? [];
    const added = [...this.hf.get_added_tokens_decoder()];
    this.addedIds = new Set(added.map(([id]) => id));
    this.specialIds = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
    this.isByteLevel = isJsonObject(json.decoder) && json.decoder.type === 'ByteLevel';
    this.addSpecialTokens = config.add_bos_token !== false;
    const eos = tokenText(config.eos_token);
    this.eosTokenId = eos === undefined ? undefined : this.hf.token_to_id(eos);
    const source = chatTemplate ?? defaultTemplate(config);
    this.template = source === undefined ? undefined : new ChatTemplate(source, specialTokens(config));
  }

  /** Highest token id plus one. A model's vocab_size may be larger: its embedding is padded to a round number. */
  get vocabSize(): number {
    return this.tokens.length;
  }

  /** Special tokens written out in the text, such as `<|im_end|>`, become their one token. */
  encode(text: string, { addSpecialTokens = this.addSpecialTokens }: EncodeOptions = {}): number[] {
    if (typeof text !== 'string') {
      throw new InvalidRequestError(`A prompt must be a string to be encoded, got ${typeof text}.`);
    }
    return this.hf.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }

  /** Bytes that are no UTF-8 become U+FFFD; ids beyond the vocabulary become nothing. */
  decode(ids: readonly number[], { skipSpecialTokens = false }: DecodeOptions = {}): string {
    const known = ids.filter((id) => this.has(id) && !(skipSpecialTokens && this.isSpecial(id)));
    if (known.length === 0) return '';
    // Never "clean up" spaces before punctuation: it would change the model's own text, and make the text
    // of a prefix differ from the prefix of the text.
    return this.hf.decode(known, { clean_up_tokenization_spaces: false });
  }

  /** Whether the vocabulary has this id: a model can draw others, out of its padding. */
  has(id: number): boolean {
    return this.tokens[id] !== undefined;
  }

  /** Whether this token marks structure (`<|im_end|>`) rather than being text. `<think>` is text. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** Whether this token was added beside the vocabulary proper: its text stands for itself, not for bytes. */
  isAdded(id: number): boolean {
    return this.addedIds.has(id);
  }

  /** How the vocabulary writes this token; see byte-level.ts for what that means. */
  token(id: number): string | undefined {
    return this.tokens[id];
  }

  /**
   * The prompt text of a conversation, by the model's own template. Encode it with addSpecialTokens: false.
   * @throws ModelError when the model has no template. @throws InvalidRequestError when it refuses the messages.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    if (this.template === undefined) {
      throw new ModelError(
        'This model has no chat template (neither chat_template in tokenizer_config.json nor chat_template.jinja): ' +
          'it is not trained for chat. Give it a text prompt instead.',
      );
    }
    return this.template.render(messages, options);
  }
}

/** @throws ModelError when the model has no tokenizer.json, or a file is not what it should be. */
export async function loadTokenizer(files: ModelFiles): Promise<Tokenizer> {
  const optional = async (file: string) => ((await files.has(file)) ? files.readText(file) : undefined);
  const [tokenizer, config, template] = await Promise.all([
    files.readText('tokenizer.json'),
    optional('tokenizer_config.json'),
    optional('chat_template.jinja'),
  ]);
  return new Tokenizer(tokenizer, config, template);
}

/** A special token is written as its text, or as an object with its text. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  return isJsonObject(value) && typeof value.content === 'string' ? value.content : undefined;
}

/** What templates may refer to by name. */
function specialTokens(config: JsonObject): Record<string, string> {
  const names = ['bos_token', 'eos_token', 'unk_token', 'pad_token'];
  const found = names.map((name) => [name, tokenText(config[name])] as const);
  return Object.fromEntries(found.filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** `chat_template` is a text, or a list of named ones of which 'default' is for plain chat. */
function defaultTemplate(config: JsonObject): string | undefined {
  const template = config.chat_template;
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return undefined;
  const named = template.find((entry) => isJsonObject(entry) && entry.name === 'default');
  return isJsonObject(named) && typeof named.template === 'string' ? named.template : undefined;
}
