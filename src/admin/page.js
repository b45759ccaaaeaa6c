'use strict';
// Draws the parts of the page anew when the server says so; without this script the page is the same, and reloads itself.
const PARTS = ['head', 'sources', 'letters'];
const byId = id => document.getElementById(id);
let source = null;
let again = 0;

const keyOf = node => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined);
const isLike = (a, b) => a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

// Makes `old` the same as `fresh`, and leaves alone what is the same already: focus, a selection, what is typed, a press of a
// button that is half done. What has a key is found by it, and never becomes something else under somebody's hands.
function morph(old, fresh) {
  const keyed = new Map([...old.children].filter(keyOf).map(child => [keyOf(child), child]));
  let place = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const candidate = keyOf(want) ? keyed.get(keyOf(want)) : place;
    const have = candidate && isLike(candidate, want) ? candidate : want;
    if (have === place) place = place.nextSibling;
    else old.insertBefore(have, place);
    if (have !== want) update(have, want);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function update(have, want) {
  if (have.nodeType !== Node.ELEMENT_NODE) {
    if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
    return;
  }
  for (const { name, value } of want.attributes) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  for (const { name } of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
  morph(have, want);
}

// Where the keyboard stands it stays: at the same control, else at the first of its row, else of the next.
function draw(id, markup) {
  const part = byId(id);
  // Of this document, so that `noscript` stays text.
  const fresh = part.cloneNode(false);
  fresh.innerHTML = markup;
  const active = document.activeElement;
  const inside = part.contains(active);
  const row = inside ? active.closest('tr') : null;
  const near = row ? [row, row.nextElementSibling, row.previousElementSibling] : [];
  morph(part, fresh);
  if (part.contains(active) && document.activeElement !== active) active.focus({ preventScroll: true });
  else if (inside && !active.isConnected) {
    const other = near.find(row => row?.isConnected);
    (other?.querySelector('button') ?? part.querySelector('a, button'))?.focus({ preventScroll: true });
  }
  if (id === 'head') document.title = part.firstElementChild.dataset.title;
}

// A row does not move away between the press and the release of a button. Not every release is told: a second is enough.
const waiting = new Map();
let pressed = -Infinity;
addEventListener('pointerdown', () => { pressed = performance.now(); }, true);
addEventListener('pointerup', () => setTimeout(() => {
  pressed = -Infinity;
  for (const [id, markup] of waiting) draw(id, markup);
  waiting.clear();
}), true);

function drawInPeace(id, markup) {
  waiting.delete(id);
  if (performance.now() - pressed < 1000) waiting.set(id, markup); else draw(id, markup);
}

function state(text, name) {
  byId('live').textContent = text;
  byId('live').className = name;
}

function connect() {
  clearTimeout(again);
  source?.close();
  source = new EventSource('/live' + location.search);
  for (const id of PARTS) source.addEventListener(id, event => drawInPeace(id, event.data));
  source.onopen = () => state('live', 'on');
  source.onerror = () => {
    state('not live, connecting again…', 'off');
    // After an answer that is no stream the browser does not come again by itself.
    if (source.readyState === EventSource.CLOSED) again = setTimeout(connect, 5000);
  };
}

// Nobody looks: the server need not draw.
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) return connect();
  clearTimeout(again);
  source?.close();
  state('not live', '');
});

const list = ids => (ids.length > 10 ? `${ids.length} dead letters` : `dead letter${ids.length > 1 ? 's' : ''} ${ids.join(', ')}`);

// What came of it, in words.
function outcome(value) {
  if (Array.isArray(value)) {
    const byOutcome = new Map();
    for (const one of value) byOutcome.set(one.outcome, [...(byOutcome.get(one.outcome) ?? []), one.id]);
    return [...byOutcome].map(([what, ids]) => `${list(ids)}: ${what}`).join('\n') || 'no dead letters';
  }
  if (value.done) return `${value.source_name} is ${value.done}`;
  if ('to' in value) return `${value.source_name} goes on after ${value.to}`;
  return `the window of request ${value.request_id} (${value.source_name} after ${value.after_id}) will be asked again`;
}

// A letter that is shown whole is no part that the server sends.
async function drawLetter() {
  const answer = await fetch(location.href, { headers: { Accept: 'text/html' } });
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const fresh = page.getElementById('letter');
  if (fresh) draw('letter', fresh.innerHTML);
}

async function act(form) {
  const answer = await fetch(form.action, {
    method: 'POST', headers: { Accept: 'application/json' }, body: new URLSearchParams(new FormData(form)),
  });
  const value = await answer.json();
  if (!answer.ok) return [[value.error, value.hint].filter(Boolean).join('; '), false];
  if (byId('letter').contains(form)) await drawLetter();
  const said = outcome(value);
  return [said, !said.includes(': not ')];
}

// What went well needs no answer and goes by itself, before it is in the way; what did not stays until it is closed.
let passing = 0;
function say(text, passes) {
  clearTimeout(passing);
  byId('said').textContent = text;
  if (passes) passing = setTimeout(say, 10000, '');
}

// A change is told where it was asked for; pressed twice, it is asked for once.
const asking = new Set();
document.addEventListener('submit', async event => {
  const form = event.target;
  if ('live' in form.dataset) {
    event.preventDefault();
    search(form);
  }
  if (!('act' in form.dataset)) return;
  event.preventDefault();
  if (asking.has(form.action) || (form.dataset.confirm && !confirm(form.dataset.confirm))) return;
  asking.add(form.action);
  say('asking…');
  try {
    say(...await act(form));
  } catch (error) {
    say(`the server does not answer: ${error.message}`);
  }
  asking.delete(form.action);
});

byId('close').addEventListener('click', () => say(''));
document.addEventListener('keydown', event => { if (event.key === 'Escape') say(''); });

// What is searched for is shown while it is typed.
function search(form) {
  const query = new URLSearchParams(location.search);
  for (const { name, type, value } of form.elements) {
    if (!name || type === 'hidden') continue;
    if (value) query.set(name, value); else query.delete(name);
  }
  query.delete('page');
  query.delete('letter');
  history.replaceState(null, '', '/?' + query);
  byId('letter').replaceChildren();
  connect();
}
let typing = 0;
function typed(event) {
  const form = event.target.form;
  if (!form || !('live' in form.dataset)) return;
  clearTimeout(typing);
  typing = setTimeout(search, 250, form);
}
document.addEventListener('input', typed);
// Not everything that chooses for people also types for them.
document.addEventListener('change', event => { if (event.target.tagName === 'SELECT') typed(event); });

connect();
