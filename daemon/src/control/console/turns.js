// One exchange: what the caller said, what the agent answered, and where the time went.

import { h, ms } from './dom.js';

// These follow one another and are the whole together; the others span several of them.
const STAGES = ['pause', 'stt', 'cache', 'knowledge', 'prefill', 'first_clause', 'tts_first', 'hold', 'playout'];
const NAMES = { pause: 'pause', stt: 'speech to text', cache: 'cache', knowledge: 'documents', prefill: 'first token', first_clause: 'first clause', tts_first: 'first audio', hold: 'end of turn', playout: 'playout' };

/** The latency of a turn as a bar, with the same in words. */
export function waterfall(timings) {
  const parts = STAGES.filter((stage) => timings?.[stage] != null).map((stage) => [stage, timings[stage]]);
  if (!parts.length) return null;
  const total = timings.voice_to_voice ?? parts.reduce((sum, [, us]) => sum + us, 0);
  const all = Math.max(total, parts.reduce((sum, [, us]) => sum + us, 0), 1);
  const bar = h('div', { class: 'bar', 'aria-hidden': 'true' }, parts.map(([stage, us]) => {
    const piece = h('span', { class: stage, title: `${NAMES[stage]} ${ms(us)}` });
    piece.style.width = `${(us / all) * 100}%`;
    return piece;
  }));
  const words = parts.map(([stage, us]) => h('li', { class: stage }, `${NAMES[stage]} ${ms(us)}`));
  return h('div', { class: 'waterfall' }, bar, h('p', { class: 'quiet' }, `${timings.voice_to_voice == null ? 'Until the first sound' : 'Voice to voice'} ${ms(total)}`), h('ul', { class: 'stages', 'aria-label': 'Where the time went' }, words));
}

// What stands in brackets the box has noted: keys, a transfer, an operator.
const saidBy = (text) => (/^\(.*\)$/.test(text) ? 'Note' : 'Caller');

const line = (who, text, how) => h('p', { class: how }, h('span', { class: 'who' }, who), ' ', text);

/** Where an answer comes from. */
function from({ source, entry, score, knowledge }) {
  if (entry != null) return `From memory: entry ${entry} (${source}), likeness ${score}.`;
  return knowledge?.length ? `From documents: ${knowledge.join('; ')}.` : '';
}

/** A turn that is over, as the API tells it. */
export function turn({ caller_text, heard_text, agent_text, interrupted, timings_us, ...how }) {
  const said = heard_text || (interrupted ? '' : agent_text);
  return h('div', { class: 'turn' },
    caller_text ? line(saidBy(caller_text), caller_text) : null,
    said || interrupted ? line('Agent', `${said ?? ''}${interrupted ? ' … (interrupted)' : ''}`) : null,
    caller_text === undefined && heard_text === undefined ? h('p', { class: 'quiet' }, 'What was said is not shown to this token.') : null,
    from(how) ? h('p', { class: 'quiet' }, from(how)) : null,
    waterfall(timings_us));
}

/** The turn that goes on. */
export function open({ caller, final, clauses, doing }) {
  return h('div', { class: 'turn open' },
    caller ? line(saidBy(caller), caller, final ? null : 'tentative') : null,
    clauses.length ? line('Agent', clauses.join(' ')) : null,
    h('p', { class: 'quiet' }, doing));
}
