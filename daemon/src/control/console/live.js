// Calls that are up. Events change what is known of them; what is known is what is shown.

import { get, order, Refused } from './api.js';
import { $, h, put, span } from './dom.js';
import { open, turn } from './turns.js';

const calls = new Map();
let watched = null;
let agents = [];

const DOING = { held: 'On hold.', listening: 'The agent listens.', thinking: 'The agent thinks.', speaking: 'The agent speaks.', caller: 'The caller speaks.' };

const fresh = () => ({ caller: '', final: false, clauses: [], doing: DOING.listening });

function add(call) {
  const known = calls.get(call.id);
  calls.set(call.id, { said: [], open: { ...fresh(), doing: DOING[call.state] ?? DOING.listening }, ...known, ...call });
}

/** What happens, applied. */
export function happened(name, data) {
  if (name === 'snapshot') {
    const up = new Set(data.calls.map((call) => call.id));
    for (const id of calls.keys()) if (!up.has(id)) calls.delete(id);
    data.calls.forEach(add);
    if (watched) fill(watched);
    return show();
  }
  if (name === 'call_started') {
    add({ id: data.call, agent: data.agent, direction: data.direction, from: data.from, to: data.to, started: data.started, state: 'speaking' });
    return show();
  }
  const call = calls.get(data.call);
  if (!call) return;
  const now = call.open;
  switch (name) {
    case 'call_ended':
      calls.delete(data.call);
      if (watched === data.call) ended(data.reason);
      break;
    case 'caller_speaking': call.state = 'listening'; now.doing = DOING.caller; break;
    case 'caller_said': now.caller = data.text ?? ''; now.final = false; now.clauses = []; break;
    case 'turn_revoked': call.open = { ...fresh(), caller: now.caller, doing: DOING.caller }; break;
    case 'end_of_turn': call.state = 'thinking'; now.final = true; now.doing = DOING.thinking; break;
    case 'agent_says':
      now.clauses[data.clause] = data.text ?? '…';
      if (now.final || !now.caller) { call.state = 'speaking'; now.doing = DOING.speaking; }
      break;
    case 'interrupted': now.doing = 'The caller interrupts.'; break;
    case 'turn_ended':
      call.said.push(data);
      call.open = fresh();
      call.state = 'listening';
      break;
    case 'listening': call.state = 'listening'; call.open = fresh(); break;
    case 'hold': call.state = data.held ? 'held' : 'listening'; now.doing = DOING[call.state]; break;
    case 'transfer': now.doing = `The caller is being handed over to ${data.to}.`; break;
    case 'transfer_failed': now.doing = `Nobody was reached: ${data.reason}.`; break;
  }
  show();
}

let due = 0;
// Many events of one moment are drawn once.
function show() {
  due ||= requestAnimationFrame(() => { due = 0; draw(); });
}

function title(call) {
  const [other, how] = call.direction === 'outbound' ? [call.to, 'to'] : [call.from, 'from'];
  return other ? `${how === 'to' ? 'To' : 'From'} ${other}` : `Call ${call.id.slice(-6)}`;
}

function draw() {
  const list = [...calls.values()].sort((a, b) => (a.started < b.started ? 1 : -1));
  const focused = document.activeElement?.dataset?.call;
  const rows = list.map((call) => h('li', {}, h('button', { type: 'button', 'data-call': call.id, 'aria-pressed': String(call.id === watched), onclick: () => look(call.id) },
    title(call), h('small', {}, `${call.agent} · ${call.state} · ${span((Date.now() - new Date(call.started)) / 1000)}`))));
  $('live').replaceChildren(...rows);
  if (focused) $('live').querySelector(`[data-call="${CSS.escape(focused)}"]`)?.focus();
  $('nobody').hidden = list.length > 0;
  const call = calls.get(watched);
  if (call) transcript(call);
}

function transcript(call) {
  put($('watched-title'), title(call));
  put($('watched-about'), `${call.agent}, ${call.direction}, since ${span((Date.now() - new Date(call.started)) / 1000)}, ${call.codec ?? ''} ${call.id}`);
  const pane = $('watched-turns');
  const atEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
  // Turns that are over stay as they are: a screen reader reads only what is new.
  while (pane.children.length > 0 && pane.lastChild.classList.contains('open')) pane.lastChild.remove();
  while (pane.children.length > call.said.length) pane.lastChild.remove();
  for (const over of call.said.slice(pane.children.length)) pane.append(turn(over));
  pane.append(open({ ...call.open, clauses: call.open.clauses.filter(Boolean) }));
  if (atEnd) pane.scrollTop = pane.scrollHeight;
}

/** Asks for the turns that were over before this page was there. */
async function fill(id) {
  const call = calls.get(id);
  if (!call) return;
  try {
    const { exchanges } = await get(`/api/v1/calls/${id}`);
    const known = new Set(exchanges.map((one) => one.turn));
    call.said = [...exchanges, ...call.said.filter((one) => !known.has(one.turn))].sort((a, b) => a.turn - b.turn);
    $('watched-turns').replaceChildren();
    show();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

function look(id) {
  watched = id;
  const call = calls.get(id);
  if (!call) return;
  $('watched').hidden = false;
  $('orders').hidden = false;
  put($('ordered'), '');
  $('watched-turns').replaceChildren();
  const names = agents.find((agent) => agent.name === call.agent)?.transfers ?? [];
  $('transfer-form').hidden = names.length === 0;
  $('transfer-to').replaceChildren(...names.map((name) => h('option', { value: name }, name)));
  draw();
  fill(id);
  $('watched-title').focus();
}

function ended(reason) {
  $('orders').hidden = true;
  const pane = $('watched-turns');
  if (pane.lastChild?.classList.contains('open')) pane.lastChild.remove();
  pane.append(h('p', { class: 'quiet' }, `The call has ended: ${reason}.`));
}

async function ordered(word, work) {
  put($('ordered'), '…');
  try {
    await work();
    put($('ordered'), word);
  } catch (error) {
    put($('ordered'), error.message);
  }
}

export function begin(known) {
  agents = known;
  const place = $('place-agent');
  place.replaceChildren(...agents.map((agent) => h('option', { value: agent.name }, agent.name)));
  $('place').hidden = false;
  $('say-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const text = $('say-text').value.trim();
    if (!text) return;
    ordered('It will be said as soon as nobody speaks.', async () => {
      await order('POST', `/api/v1/calls/${watched}/say`, { text });
      $('say-text').value = '';
    });
  });
  $('transfer-form').addEventListener('submit', (event) => {
    event.preventDefault();
    ordered('The caller will be handed over.', () => order('POST', `/api/v1/calls/${watched}/transfer`, { to: $('transfer-to').value }));
  });
  $('hang-up').addEventListener('click', () => {
    if (confirm('End this call at once, without a word?')) ordered('Hung up.', () => order('DELETE', `/api/v1/calls/${watched}`));
  });
  $('place-form').addEventListener('submit', async (event) => {
    event.preventDefault();
    put($('place-said'), 'It rings …');
    try {
      const { id } = await order('POST', '/api/v1/calls', { to: $('place-to').value.trim(), agent: place.value });
      put($('place-said'), `Answered: call ${id}.`);
      if (calls.has(id)) look(id);
    } catch (error) {
      put($('place-said'), error.message);
    }
  });
  // Only how long each has lasted.
  setInterval(() => calls.size && document.visibilityState === 'visible' && show(), 1000);
}
