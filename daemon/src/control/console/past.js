// Finding a call, and reading it.

import { blob, get } from './api.js';
import { $, h, put, span, when } from './dom.js';
import { turn } from './turns.js';

let query = new URLSearchParams();
let next = null;
let heard = null;

function wanted() {
  const asked = new URLSearchParams({ limit: '50' });
  for (const [name, value] of new FormData($('search'))) {
    if (!value.trim()) continue;
    const time = name === 'since' || name === 'until';
    asked.set(name, time ? new Date(value).toISOString() : value.trim());
  }
  return asked;
}

const lasted = (call) => (call.ended ? span((new Date(call.ended) - new Date(call.started)) / 1000) : '');

function row(call) {
  const cells = [call.state, call.agent, call.from ?? '', call.to ?? '', lasted(call), String(call.turns), call.end_reason ?? ''];
  return h('tr', {}, h('td', {}, h('button', { type: 'button', onclick: () => read(call.id) }, when(call.started))), cells.map((text) => h('td', {}, text)));
}

async function page(more) {
  if (!more) query = wanted();
  const asked = new URLSearchParams(query);
  if (more) asked.set('before', next);
  put($('found'), 'Looking …');
  try {
    const found = await get(`/api/v1/calls?${asked}`);
    next = found.next ?? null;
    const rows = found.calls.map(row);
    if (more) $('rows').append(...rows);
    else $('rows').replaceChildren(...rows);
    $('more').hidden = !next;
    const count = $('rows').children.length;
    put($('found'), count === 0 ? 'No such call.' : count === 1 ? 'One call.' : `${count} calls${next ? ', and there are more' : ''}.`);
    if (more) rows[0]?.querySelector('button').focus();
  } catch (error) {
    put($('found'), error.message);
  }
}

async function read(id) {
  const call = await get(`/api/v1/calls/${id}`);
  put($('call-title'), `Call of ${when(call.started)}`);
  const about = { Id: call.id, State: call.state, Agent: call.agent, Direction: call.direction, From: call.from, To: call.to, Codec: call.codec, Lasted: lasted(call), 'Ended because': call.end_reason, 'Packets in': call.media && `${call.media.packets_in}, ${call.media.packets_lost} lost, ${call.media.packets_late} late` };
  const pairs = Object.entries(about).filter(([, value]) => value);
  $('call-about').replaceChildren(...pairs.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, String(value))]));
  $('call-turns').replaceChildren(...call.exchanges.map(turn));
  silence();
  $('call-recording').hidden = call.state !== 'ended';
  $('listen').onclick = () => listen(id);
  $('call').showModal();
  $('call-title').focus();
}

/** Nothing of a recording stays once nobody looks at its call. */
function silence() {
  $('audio').pause();
  $('audio').removeAttribute('src');
  $('audio').hidden = true;
  if (heard) URL.revokeObjectURL(heard);
  heard = null;
  put($('listened'), '');
}

async function listen(id) {
  put($('listened'), 'Looking …');
  try {
    heard = await blob(`/api/v1/calls/${id}/recording?format=ogg`);
    $('audio').src = heard;
    $('audio').hidden = false;
    $('call-recording').hidden = true;
    $('audio').focus();
    await $('audio').play();
  } catch (error) {
    put($('listened'), error.message);
  }
}

export function begin(agents) {
  $('call').addEventListener('close', silence);
  $('s-agent').append(...agents.map((agent) => h('option', { value: agent.name }, agent.name)));
  $('search').addEventListener('submit', (event) => { event.preventDefault(); page(false); });
  $('more').addEventListener('click', () => page(true));
  return page(false);
}

/** A call has ended: the list shows it, unless somebody reads further down. */
export function refresh() {
  if ($('rows').children.length <= 50 && !document.querySelector('#rows :focus')) page(false);
}
