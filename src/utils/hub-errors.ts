import { getHFHubCachePath, HubApiError } from '@huggingface/hub';
import { HubError } from '#nano/errors';
import { describeNetworkError, isNetworkError } from '#nano/utils/hub-download';

/** What was asked of the hub. */
export interface HubRequestInfo {
  readonly endpoint: string;
  readonly id: string;
  readonly revision: string;
  readonly hasToken: boolean;
}

/** Any error of a download, as a HubError that says what to do next. */
export function explainHubError(error: unknown, request: HubRequestInfo): HubError {
  if (error instanceof HubError) return error;
  if (error instanceof HubApiError) return explainStatus(error.statusCode, request, error);
  if (isNetworkError(error)) {
    return new HubError(
      `${request.endpoint} cannot be reached (${describeNetworkError(error)}). Check the network, set HF_ENDPOINT to ` +
        'a mirror, or give a local folder.',
      { cause: error },
    );
  }
  const cache = getHFHubCachePath();
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC') {
    return new HubError(
      `The disk of the cache ${cache} is full. Make room and start again to continue, ` +
        'or set HF_HOME to a folder on another disk.',
      { cause: error },
    );
  }
  return new HubError(
    `${request.id} could not be downloaded into ${cache}: ${message}. The folder can be changed with HF_HOME.`,
    { cause: error },
  );
}

/** The hub's answer, when it is no. It says 401 for what does not exist, too, so as not to give names away. */
export function explainStatus(
  status: number,
  { endpoint, id, revision, hasToken }: HubRequestInfo,
  cause?: unknown,
): HubError {
  const page = `${endpoint}/${id}`;
  const say = (message: string) => new HubError(`${message} (${page} answered ${status}.)`, { cause });
  switch (status) {
    case 401:
      return hasToken
        ? say(`'${id}' does not exist, or HF_TOKEN is not valid for it. Check both.`)
        : say(`'${id}' does not exist, or is private or gated. Check the name, or set HF_TOKEN to an access token.`);
    case 403:
      return say(
        `Access to '${id}' must be granted first: accept its conditions on ${page} ` +
          (hasToken ? 'with the account of HF_TOKEN.' : 'and set HF_TOKEN to an access token.'),
      );
    case 404:
      return say(`There is no model '${id}' with the revision '${revision}'. Check both, or give a local folder.`);
    case 429:
      return say('The hub asks for a pause: too many requests. Wait a few minutes, or set HF_TOKEN.');
    default:
      return say('The hub has trouble. Try again later; what is downloaded already is kept.');
  }
}
