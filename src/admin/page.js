'use strict';
// Draws the parts of the page anew when the server says so; without this script the page is the same, and reloads itself.
const PARTS = ['head', 'sources', 'letters'];
const byId = id => document.getElementById(id);
let source = null;

// Where somebody types or stands with the keyboard, that place stays.
function draw(id, markup) {
  const part = byId(id);
  const active = document.activeElement;
  const inside = active && part.contains(active);
  if (inside && active.tagName === 'INPUT') return;
  const key = inside ? active.dataset.key : null;
  part.innerHTML = markup;
  if (key) part.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function connect() {
  source?.close();
  source = new EventSource('/live' + location.search);
  for (const id of PARTS) source.addEventListener(id, event => draw(id, event.data));
  source.onopen = () => { byId('live').textContent = 'live'; };
  source.onerror = () => { byId('live').textContent = 'connecting again…'; };
}

// Nobody looks: the server need not draw.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) { source?.close(); byId('live').textContent = 'not live'; } else connect();
});

// A change is told where it was asked for.
document.addEventListener('submit', async event => {
  const form = event.target;
  if (!('act' in form.dataset)) return;
  event.preventDefault();
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
  const said = byId('said');
  said.textContent = '…';
  try {
    const answer = await fetch(form.action, {
      method: 'POST', headers: { Accept: 'application/json' }, body: new URLSearchParams(new FormData(form)),
    });
    const value = await answer.json();
    if (!answer.ok) said.textContent = [value.error, value.hint].filter(Boolean).join('; ');
    else if (Array.isArray(value)) said.textContent = value.map(one => `dead letter ${one.id}: ${one.outcome}`).join('\n') || 'no dead letters';
    else if (value.source_name && value.done) said.textContent = `${value.source_name} is ${value.done}`;
    else if ('to' in value) said.textContent = `${value.source_name} goes on after ${value.to}`;
    else said.textContent = `the window of request ${value.request_id} (${value.source_name} after ${value.after_id}) will be asked again`;
  } catch (error) {
    said.textContent = `the server does not answer: ${error.message}`;
  }
});

// What is searched for is shown while it is typed.
let typing = 0;
function search(event) {
  const form = event.target.form;
  if (!form || !('live' in form.dataset)) return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of new FormData(form)) query.set(name, value);
    query.delete('page');
    query.delete('letter');
    history.replaceState(null, '', '/?' + query);
    connect();
  }, 250);
}
document.addEventListener('input', search);

connect();
