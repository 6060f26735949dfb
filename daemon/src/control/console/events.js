// What happens to calls, as it happens. Server-Sent Events read by hand: EventSource sends no token.

import { headers } from './api.js';

/** Takes a stream of bytes apart into events. */
export function parser(emit) {
  let rest = '';
  let event = { name: 'message', id: null, data: [] };
  return (chunk) => {
    rest += chunk;
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.replace(/\r$/, '');
      if (line === '') {
        if (event.data.length) emit({ ...event, data: event.data.join('\n') });
        event = { name: 'message', id: null, data: [] };
        continue;
      }
      const [field, value] = line.includes(':') ? [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).replace(/^ /, '')] : [line, ''];
      if (field === 'event') event.name = value;
      else if (field === 'id') event.id = value;
      else if (field === 'data') event.data.push(value);
    }
  };
}

/** Watches until `stop`; comes again by itself and goes on where it was. */
export function watch(path, { on, state }) {
  const stop = new AbortController();
  let last = null;
  let wait = 500;
  (async () => {
    while (!stop.signal.aborted) {
      try {
        const more = last ? { 'last-event-id': last } : {};
        const answer = await fetch(path, { headers: headers({ accept: 'text/event-stream', ...more }), signal: stop.signal, cache: 'no-store' });
        if (answer.status === 401 || answer.status === 403) return state('refused');
        if (!answer.ok) throw new Error(String(answer.status));
        state('live');
        wait = 500;
        const take = parser((event) => {
          last = event.id ?? last;
          on(event.name, JSON.parse(event.data));
        });
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          take(value);
        }
      } catch (error) {
        if (stop.signal.aborted) return;
      }
      state('lost');
      await new Promise((later) => setTimeout(later, wait));
      wait = Math.min(wait * 2, 10_000);
    }
  })();
  return () => stop.abort();
}
