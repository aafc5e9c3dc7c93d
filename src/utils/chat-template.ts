import { Template } from '@huggingface/jinja';
import { InvalidRequestError, ModelError } from '#nano/errors';

export interface ToolCall {
  name: string;
  arguments: Readonly<Record<string, unknown>> | string;
}

/** One message of a conversation. Roles a model knows are up to its template. */
export interface ChatMessage {
  role: 'system' | 'user' | 'assistant' | 'tool' | (string & {});
  /** The text; of a tool, what it answered. */
  content: string;
  /** What the assistant thought before it answered, where it is kept apart from `content`. */
  reasoning_content?: string;
  /** Functions that the assistant wants called, with their arguments. */
  tool_calls?: readonly (ToolCall | { type?: 'function'; function: ToolCall })[];
}

/** How messages become a prompt. */
export interface ChatTemplateOptions {
  /** Ends with the start of the assistant's turn, so that the model answers. True unless told otherwise. */
  addGenerationPrompt?: boolean;
  /** Qwen3: false puts an empty thought there, and the model answers at once. True unless told otherwise. */
  enableThinking?: boolean;
  /** JSON schemas of functions the model may ask to be called. */
  tools?: readonly unknown[];
}

/** A model's own recipe for turning messages into the text it was trained on, in the Jinja language. */
export class ChatTemplate {
  private readonly template: Template;

  /** @throws ModelError when the text is not a template. */
  constructor(
    source: string,
    private readonly specialTokens: Readonly<Record<string, string>> = {},
  ) {
    try {
      this.template = new Template(source);
    } catch (cause) {
      throw new ModelError(`The chat template does not parse: ${(cause as Error).message}`, { cause });
    }
  }

  /** @throws InvalidRequestError when messages are missing or malformed, or the template refuses them. */
  render(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const { addGenerationPrompt = true, enableThinking = true, tools } = options;
    checkMessages(messages);
    try {
      return this.template.render({
        ...this.specialTokens,
        messages,
        add_generation_prompt: addGenerationPrompt,
        enable_thinking: enableThinking,
        ...(tools === undefined ? {} : { tools }),
      });
    } catch (cause) {
      throw new InvalidRequestError(`The chat template refuses these messages: ${(cause as Error).message}`, { cause });
    }
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new InvalidRequestError("A chat needs at least one message, e.g. [{ role: 'user', content: 'Hello' }].");
  }
  messages.forEach((message: unknown, i) => {
    const { role, content } = (message ?? {}) as Partial<ChatMessage>;
    if (typeof role !== 'string' || typeof content !== 'string') {
      throw new InvalidRequestError(
        `Message ${i} must have a role and a content, both strings, got ${JSON.stringify(message)?.slice(0, 80)}.`,
      );
    }
  });
}
