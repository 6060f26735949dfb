// The console in a real Chromium. Enters: the address of a daemon with a call that is up, a token, a folder for pictures.
// Leaves: one line of JSON with what was measured, or an error. Looks at nothing but what a person can see and press.
//
// node console.mjs URL FOLDER, with CALLBOX_TOKEN and CALLBOX_CACHE in the environment.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [url, folder] = process.argv.slice(2);
const token = process.env.CALLBOX_TOKEN;
const peers = createRequire(join(process.env.CALLBOX_CACHE, 'peers/console/index.js'));
const { chromium } = peers('playwright-core');
const axe = peers('axe-core');

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light', reducedMotion: 'reduce' });
const page = await context.newPage();
const faults = [];
page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
page.on('console', (message) => {
  // A wrong token is answered 401 on purpose; Chromium writes that down by itself.
  if (message.type() === 'error' && !/status of 401/.test(message.text())) faults.push(message.text());
});
// A recording lies in the tab's own memory.
page.on('request', (request) => request.url().startsWith(url) || request.url().startsWith(`blob:${url}`) || faults.push(`elsewhere: ${request.url()}`));

let bytes = 0;
const network = await context.newCDPSession(page);
await network.send('Network.enable');
network.on('Network.loadingFinished', (event) => { bytes += event.encodedDataLength; });

/** Whatever axe-core finds of WCAG 2.2, levels A and AA, and of good practice. */
async function accessible(where) {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  const told = violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(' | ')}`);
  assert.deepEqual(told, [], where);
}

const picture = (name) => page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });

async function narrowEnough(where) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(over <= 0, `${where}: ${over} px wider than the window`);
}

try {
  // The door, by keyboard alone.
  await page.goto(url);
  await page.waitForSelector('body[data-ready=door]');
  await accessible('door');
  await picture('door');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
  await page.keyboard.type('cbx_000000000000_wrong');
  await page.keyboard.press('Enter');
  await page.getByText('this needs a token that is valid').waitFor();
  await page.keyboard.type(token);
  await page.keyboard.press('Enter');
  await page.waitForSelector('body[data-ready=yes]');

  // From nothing to a page that can be used, three times: what is measured is the machine, too.
  const times = [];
  let transferred = 0;
  for (let n = 0; n < 3; n += 1) {
    bytes = 0;
    await page.reload();
    await page.waitForSelector('body[data-ready=yes]');
    times.push(await page.evaluate(() => performance.now()));
    transferred = Math.max(transferred, bytes);
  }
  const ready = Math.min(...times);

  // The call that is up: what is said is seen as it is said.
  const call = page.locator('#live button').first();
  await call.focus();
  await page.keyboard.press('Enter');
  const turns = page.locator('#watched-turns');
  await turns.getByText('Good morning').first().waitFor({ timeout: 20_000 });
  await turns.getByText('is there a garden').first().waitFor({ timeout: 20_000 });
  await turns.getByText('There is.').first().waitFor({ timeout: 20_000 });
  await turns.locator('.waterfall').first().waitFor({ timeout: 20_000 });
  await turns.locator('.turn.open').first().waitFor();
  await accessible('live, light');
  await picture('live-light');
  await page.getByRole('button', { name: 'Theme: system' }).click();
  await page.getByRole('button', { name: 'Theme: light' }).click();
  await accessible('live, dark');
  await picture('live-dark');

  // What an operator says is said.
  await page.getByLabel('Have the agent say').fill('A colleague is on the way.');
  await page.keyboard.press('Enter');
  await page.getByText('It will be said as soon as nobody speaks.').waitFor();
  await turns.locator('.turn:not(.open)', { hasText: 'A colleague is on the way.' }).waitFor({ timeout: 20_000 });

  // Small, and large print.
  await page.setViewportSize({ width: 360, height: 800 });
  await narrowEnough('a telephone');
  await picture('narrow');
  await page.setViewportSize({ width: 1280, height: 900 });

  // What agents know: an answer and a document are added, tried, and taken away.
  await page.locator('#known-title').click();
  await page.getByLabel('What callers ask').fill('Is there a sauna?');
  await page.getByLabel('What the agent says').fill('Yes, in the cellar.');
  await page.keyboard.press('Enter');
  const answers = page.getByRole('region', { name: 'Answers that are known' });
  await answers.getByText('Yes, in the cellar.').waitFor();
  await page.getByLabel('Markdown, text or CSV').setInputFiles({ name: 'pool.md', mimeType: 'text/markdown', buffer: Buffer.from('# Pool\n\nThe pool opens at seven.\n') });
  await page.getByRole('button', { name: 'Add the document' }).click();
  const documents = page.getByRole('region', { name: 'Documents that are known' });
  await documents.getByText('pool.md').waitFor();
  await page.getByLabel('What would a caller').fill('When does the pool open?');
  await page.keyboard.press('Enter');
  await page.getByText('The pool opens at seven.').waitFor();
  await accessible('known');
  await picture('known');
  for (const [list, name] of [[answers, 'Is there a sauna?'], [documents, 'pool.md']]) {
    page.once('dialog', (dialog) => dialog.accept());
    await list.getByRole('button', { name: `Take away: ${name}` }).click();
    await list.getByText(name).waitFor({ state: 'detached' });
  }
  await page.locator('#known-title').click();

  // It ends, and is found.
  page.once('dialog', (dialog) => dialog.accept());
  await page.getByRole('button', { name: 'Hang up' }).click();
  await page.getByText('The call has ended: operator_hangup.').waitFor();
  await page.getByText('Nobody is on the telephone.').waitFor();
  await page.getByLabel('Ended because').fill('operator_hangup');
  await page.getByRole('button', { name: 'Search' }).click();
  const row = page.locator('#rows tr').first();
  await row.getByText('operator_hangup').waitFor();
  await accessible('found');
  await row.getByRole('button').focus();
  await page.keyboard.press('Enter');
  const dialog = page.locator('dialog#call');
  await dialog.getByText('A colleague is on the way.').first().waitFor();
  await dialog.locator('.waterfall').first().waitFor();
  await accessible('one call');
  await picture('call');
  await dialog.getByRole('button', { name: 'Listen' }).click();
  await dialog.locator('audio').evaluate((audio) => new Promise((done, fail) => {
    audio.addEventListener('timeupdate', () => audio.currentTime > 0.5 && audio.duration > 3 && done());
    audio.addEventListener('error', () => fail(new Error(`the recording cannot be played: ${audio.error?.message}`)));
    setTimeout(() => fail(new Error(`the recording is not heard: ${audio.currentTime} of ${audio.duration} s`)), 15_000);
  }));
  await page.keyboard.press('Escape');
  assert.equal(await dialog.isVisible(), false);
  await page.getByLabel('Agent', { exact: true }).first().waitFor({ state: 'attached' });
  await page.locator('#s-reason').fill('no_such_reason');
  await page.getByRole('button', { name: 'Search' }).click();
  await page.getByText('No such call.').waitFor();

  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.waitForSelector('body[data-ready=door]');
  assert.equal(await page.evaluate(() => JSON.stringify(sessionStorage)), '{}');
  assert.deepEqual(faults, []);
  assert.ok(ready < 1000, `interactive after ${ready} ms`);
  assert.ok(transferred < 300_000, `${transferred} bytes`);
  console.log(JSON.stringify({ interactive_ms: Math.round(ready), transferred_bytes: transferred }));
} catch (error) {
  await picture('failed');
  console.error(error, faults);
  process.exitCode = 1;
} finally {
  await browser.close();
}
