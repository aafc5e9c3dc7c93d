/**
 * The line between rank 0 and one other rank, for what is said rather than computed: which model, which step, when to stop.
 * Messages arrive whole, in order, and once. They are values that the structured clone algorithm copies: plain objects, typed
 * arrays.
 */
export interface Channel {
  /** For messages: 'rank 2', with where it runs. */
  readonly peer: string;
  /** Returns at once; what cannot be delivered is lost with the channel. */
  send(message: unknown): void;
  /** To be set once. Messages that came before wait for it. */
  onMessage(listener: (message: unknown) => void): void;
  /** Resolves, and never rejects, when nothing will come any more: with what is known of why, for people. */
  readonly closed: Promise<string>;
  /** Ends it from this side. The other side sees it close. Calling it twice is harmless. */
  close(): void;
}
