// How the box is: tiles, and what somebody should look at.

import { get, text } from './api.js';
import { $, h, span } from './dom.js';

const PARTS = { 'engine:ears': 'Ears', 'engine:mind': 'Mind', 'engine:voice': 'Voice', storage: 'Database', sip: 'Signalling', media: 'Media', drain: 'Drain', selftest: 'Self-test' };

/** Sums of a metric's samples on a page of OpenMetrics. */
export function metric(page, name) {
  const values = page.split('\n').filter((line) => line.startsWith(name) && /^[ {]/.test(line.slice(name.length))).map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
  return values.length ? values.reduce((sum, value) => sum + value, 0) : null;
}

const tile = (name, value, how = '') => h('li', { class: how }, h('span', {}, name), h('strong', {}, value));
const alert = (what, why, bad) => h('li', { class: bad ? 'alert bad' : 'alert' }, h('strong', {}, what), why);

let shown = { tiles: '', alerts: '' };
let report = null;
let restarts = null;
let stream = 'live';

export const streamIs = (state) => { stream = state; };

function replace(id, items) {
  const html = items.map((item) => item.outerHTML).join('');
  if (shown[id] === html) return;
  shown[id] = html;
  $(id).replaceChildren(...items);
}

export async function look() {
  const alerts = [];
  let health;
  let page = '';
  try {
    [health, page] = await Promise.all([get('/health', { also: [503] }), text('/metrics')]);
  } catch {
    replace('alerts', [alert('No answer.', 'The box cannot be reached; this page shows what was known last.', true)]);
    return null;
  }
  const tiles = [];
  for (const [part, why] of Object.entries(health.parts)) {
    const good = why === 'ready';
    if (part !== 'drain') tiles.push(tile(PARTS[part] ?? part, good ? 'ready' : why, good ? 'good' : 'bad'));
    if (!good) alerts.push(alert(PARTS[part] ?? part, why, true));
  }
  const lost = metric(page, 'callbox_engine_restarts_total') ?? 0;
  if (restarts !== null && lost > restarts) alerts.push(alert('Engine', `it was started again ${lost - restarts} times since this page is open`, false));
  restarts ??= lost;
  tiles.push(tile('Calls up', String(health.calls)), tile('Calls answered', String(metric(page, 'callbox_calls_total') ?? 0)));
  const refused = metric(page, 'callbox_calls_refused_total') ?? 0;
  tiles.push(tile('Calls refused', String(refused), refused ? 'warn' : ''), tile('Engine restarts', String(lost), lost ? 'warn' : ''));
  const late = report?.voice_to_voice;
  if (late?.p95_ms != null) {
    const how = late.p95_ms > 3000 ? 'bad' : late.p95_ms > 1500 ? 'warn' : 'good';
    tiles.push(tile('Voice to voice, p95 of an hour', `${Math.round(late.p95_ms)} ms`, how));
    if (how !== 'good') alerts.push(alert('Slow answers', `95 of 100 within ${Math.round(late.p95_ms)} ms in the last hour`, how === 'bad'));
  }
  for (const [name, trunk] of Object.entries(health.trunks)) {
    const down = trunk.registered === false;
    tiles.push(tile(`Trunk ${name}`, down ? 'not registered' : `${trunk.calls} calls`, down ? 'bad' : 'good'));
    if (down) alerts.push(alert(`Trunk ${name}`, 'is not registered: nobody can call through it', true));
  }
  for (const card of health.gpus.cards) {
    const taken = card.memory_bytes ? `${Math.round((100 * card.memory_used_bytes) / card.memory_bytes)} % of its memory` : card.name;
    const warm = card.temperature_celsius == null ? '' : `, ${card.temperature_celsius} °C`;
    tiles.push(tile(`GPU ${card.index}`, card.faults.length ? 'look at it' : `${taken}${warm}`, card.faults.length ? 'bad' : 'good'));
    for (const fault of card.faults) alerts.push(alert(`GPU ${card.index}`, fault, true));
  }
  if (health.storage.fault) alerts.push(alert('Database', health.storage.fault, true));
  if (health.storage.records_lost) alerts.push(alert('Database', `${health.storage.records_lost} records were lost`, false));
  if (stream === 'lost') alerts.push(alert('Live view', 'the stream of events is interrupted; it comes again by itself', false));
  tiles.push(tile('Version', health.version), tile('Up for', span(health.uptime_seconds)));
  replace('tiles', tiles);
  replace('alerts', alerts);
  return health;
}

export async function lookBack() {
  try {
    report = (await get('/api/v1/reports/summary?since_s=3600')).rows[0] ?? null;
  } catch {
    report = null;
  }
}
