// What agents know: answers and documents, looked at, tried, added and taken away.

import { get, order } from './api.js';
import { $, h, put, when } from './dom.js';

const agent = () => $('known-agent').value;
const at = (name) => `/api/v1/knowledge/${encodeURIComponent(agent())}/${encodeURIComponent(name)}`;

/** What was ordered is done, or the box says why not; then the lists are looked at again. */
async function ordered(done, work) {
  try {
    await work();
    put($('known-said'), done);
    await look();
    return true;
  } catch (error) {
    put($('known-said'), error.message);
    return false;
  }
}

const taken = (what, path) => h('button', { type: 'button', class: 'small danger', 'aria-label': `Take away: ${what}`, onclick: () => confirm(`Take away “${what}”?`) && ordered('It is taken away.', () => order('DELETE', path)) }, 'Take away');

const row = (cells) => h('tr', {}, cells.map((cell) => h('td', { class: typeof cell === 'string' && cell.length > 40 ? 'long' : '' }, cell)));

async function answers() {
  const { entries, next } = await get(`/api/v1/cache?limit=200&agent=${encodeURIComponent(agent())}`);
  $('known-answers').replaceChildren(...entries.map((entry) => row([
    entry.question, entry.answer, entry.outdated ? `${entry.origin}, outdated` : entry.origin, String(entry.hits), when(entry.used),
    entry.origin === 'faq' ? '' : taken(entry.question, `/api/v1/cache/${entry.id}`),
  ])));
  put($('known-answers-count'), entries.length === 0 ? 'None is known.' : next ? 'The first 200 are shown.' : '');
}

async function documents() {
  const { documents } = await get(`/api/v1/knowledge?agent=${encodeURIComponent(agent())}`);
  $('known-documents').replaceChildren(...documents.map((document) => row([
    document.name, document.added ? 'added' : 'folder', document.without_vector ? `${document.passages}, ${document.without_vector} not ready` : String(document.passages),
    document.added ? taken(document.name, at(document.name)) : '',
  ])));
  put($('known-documents-count'), documents.length === 0 ? 'None is known.' : '');
}

/** A token that sees no callers sees no answers either, but documents. */
async function look() {
  await Promise.all([answers().catch((error) => put($('known-answers-count'), error.message)), documents()]);
}

async function query(question) {
  const asked = new URLSearchParams({ agent: agent(), question });
  const { passages } = await get(`/api/v1/knowledge/query?${asked}`);
  $('known-found').replaceChildren(...passages.map(({ name, text, score }) => h('li', {}, h('strong', {}, name), ` ${score.toFixed(2)} `, text)));
  put($('known-said'), passages.length ? `${passages.length} passages speak of that.` : 'No passage speaks of that.');
}

const onSubmit = (id, work) => $(id).addEventListener('submit', async (event) => {
  event.preventDefault();
  if (await work(new FormData(event.target))) event.target.reset();
});

export function begin(agents) {
  $('known-agent').append(...agents.map(({ name }) => h('option', { value: name }, name)));
  $('known-agent').addEventListener('change', () => { $('known-found').replaceChildren(); look(); });
  // Nobody has asked for it before.
  $('known').addEventListener('toggle', () => $('known').open && look());
  onSubmit('known-add', (form) => ordered('It is known.', () => order('POST', '/api/v1/cache', { agent: agent(), question: form.get('question').trim(), answer: form.get('answer').trim() })));
  onSubmit('known-file', async (form) => {
    const file = form.get('file');
    const text = await file.text();
    return ordered(`${file.name} is known.`, () => order('PUT', at(file.name), { text }));
  });
  onSubmit('known-query', (form) => query(form.get('question').trim()).catch((error) => put($('known-said'), error.message)));
}
