// The page: who is here, what is shown, and when it is looked at again.

import { forget, get, keep, Refused, token } from './api.js';
import * as box from './box.js';
import { $, put } from './dom.js';
import { watch } from './events.js';
import * as known from './known.js';
import * as live from './live.js';
import * as past from './past.js';

const THEMES = ['system', 'light', 'dark'];

function theme(wanted) {
  const known = THEMES.includes(wanted) ? wanted : 'system';
  if (known === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = known;
  put($('theme'), `Theme: ${known}`);
  try { localStorage.setItem('callbox-theme', known); } catch { /* A browser may keep nothing. */ }
}

let health = null;

function say() {
  // A self-test that fails turns nobody away.
  const taken = health && Object.entries(health.parts).every(([part, why]) => why === 'ready' || part === 'selftest');
  const words = health?.status === 'ready' ? 'Calls are answered.' : taken ? 'Calls are taken, and the self-test fails.' : 'Calls are refused.';
  put($('state'), health ? words : 'No answer.');
  $('state').dataset.state = health?.status ?? '';
}

async function tick() {
  health = await box.look();
  say();
}

async function enter() {
  const { agents } = await get('/api/v1/agents');
  $('door').hidden = true;
  $('console').hidden = false;
  $('leave').hidden = false;
  live.begin(agents);
  known.begin(agents);
  watch('/api/v1/events', {
    on(name, data) {
      live.happened(name, data);
      if (name === 'call_ended') setTimeout(past.refresh, 500);
    },
    state(now) {
      if (now === 'refused') leave('This token is not good any more: sign in with another.');
      box.streamIs(now);
    },
  });
  await Promise.all([past.begin(agents), box.lookBack().then(tick)]);
  setInterval(tick, 2000);
  setInterval(box.lookBack, 30_000);
  document.body.dataset.ready = 'yes';
}

function knock(why = '') {
  $('console').hidden = true;
  $('leave').hidden = true;
  $('door').hidden = false;
  put($('token-error'), why);
  $('token').focus();
  document.body.dataset.ready = 'door';
}

function leave(why) {
  forget();
  sessionStorage.setItem('callbox-why', why ?? '');
  // A new page: nothing of what was shown stays.
  location.reload();
}

async function tryToEnter() {
  try {
    await enter();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401 || error.status === 403) forget();
    knock(error.message);
  }
}

theme(localStorage.getItem('callbox-theme') ?? 'system');
$('theme').addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'system';
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
$('leave').addEventListener('click', () => leave());
$('sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  keep($('token').value.trim());
  $('token').value = '';
  tryToEnter();
});

if (token()) tryToEnter();
else {
  knock(sessionStorage.getItem('callbox-why') ?? '');
  sessionStorage.removeItem('callbox-why');
  tick();
}
