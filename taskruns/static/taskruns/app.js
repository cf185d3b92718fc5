// Makes the pages live. Nothing here is needed to see runs or to cancel them: every button is a plain form too.
const { htmx } = window;
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => root.querySelectorAll(selector);

// --- Times: relative texts and running durations tick without requests. The server's clock is the one that counts.
const skew = Number(document.body.dataset.now) * 1000 - Date.now();
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function inWords(seconds, most) {
  const words = [];
  for (const [unit, size] of UNITS) {
    const amount = Math.floor(seconds / size);
    seconds -= amount * size;
    if (amount || (unit === "s" && !words.length)) words.push(`${amount} ${unit}`);
  }
  return words.slice(0, most).join(" ");
}

function ago(seconds) {
  if (seconds < -60) return `in ${inWords(-seconds, 1)}`;
  return seconds < 1 ? "just now" : `${inWords(seconds, 1)} ago`;
}

function tick() {
  if (document.hidden) return;
  const now = Date.now() + skew;
  const write = (node, iso, words) => {
    const text = words(Math.floor((now - Date.parse(iso)) / 1000));
    if (node.textContent !== text) node.textContent = text;
  };
  for (const node of all("[data-relative]")) write(node, node.dateTime, ago);
  for (const node of all("[data-since]")) write(node, node.dataset.since, (s) => inWords(Math.max(0, s), 2));
  for (const node of all("[data-longer-at]")) node.hidden = now < Date.parse(node.dataset.longerAt);
}

// --- Swaps: what did not change keeps its node, and with it focus, selection and open details.
function shape(node) {
  const copy = node.cloneNode(true);
  for (const ticking of all("[data-relative], [data-since]", copy)) ticking.textContent = "";
  for (const late of all("[data-longer-at]", copy)) late.hidden = true;
  for (const token of all("[name=csrfmiddlewaretoken]", copy)) token.setAttribute("value", "");
  for (const open of all("details[open]", copy)) open.removeAttribute("open");
  return copy.innerHTML;
}

const same = (old, fresh) =>
  old.dataset.v && !("parts" in old.dataset) ? old.dataset.v === fresh.dataset.v : shape(old) === shape(fresh);

function copyAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "class" && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

/** Make `old` show what `fresh` shows: children are matched by id; returns the nodes that came in. */
function update(old, fresh) {
  copyAttributes(old, fresh);
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  const wanted = [...fresh.children].map((child) => ({ child, kept: known.get(child.id) }));
  const staying = new Set(wanted.map(({ kept }) => kept));
  for (const child of [...old.children]) if (!staying.has(child)) child.remove();
  const added = [];
  let next = old.firstElementChild;
  for (const { child, kept } of wanted) {
    if (kept && "parts" in kept.dataset && "parts" in child.dataset) added.push(...update(kept, child));
    const stays = kept && ("parts" in kept.dataset || same(kept, child));
    if (kept && !stays) {
      keepPicked(kept, child);
      if (kept === next) next = next.nextElementSibling;
      kept.remove();
    }
    const node = stays ? kept : child;
    if (!stays) added.push(child);
    if (node === next) next = next.nextElementSibling;
    else old.insertBefore(node, next);
  }
  return added;
}

/** What was replaced gets the focus back on the same control; when that is gone, on its title. */
function restoreFocus(before, place) {
  if (!before || before === document.body || document.activeElement === before) return;
  const root = place && byId(place);
  const kind = ["[data-cancel]", "[data-pick]", "[data-copy]", ".only", "summary"].find((selector) => before.matches(selector));
  const again = before.isConnected ? before : (kind && root?.querySelector(kind)) || root?.querySelector("[data-task]");
  again?.focus({ preventScroll: true });
}

htmx.defineExtension("rows", {
  isInlineSwap: (style) => style === "rows",
  handleSwap(style, target, fragment) {
    const fresh = fragment.firstElementChild;
    if (style !== "rows" || !fresh || !target.isConnected) return false;
    const focused = document.activeElement;
    const place = focused?.closest("tr[id], [data-cancel-target]")?.id;
    const inPlace = "parts" in target.dataset && target.id === fresh.id;
    const added = inPlace ? update(target, fresh) : [fresh];
    if (!inPlace) target.replaceWith(fresh);
    tick();
    restoreFocus(focused, place);
    countPicked();
    return added;
  },
});

// --- Polling: silent while nobody can see it, while a dialog is open, and while paused; at once on return.
let paused = false;
const dialog = byId("cancel-dialog");
const isPoll = (node) => node?.dataset?.poll !== undefined;
const refresh = () => all("[data-poll]").forEach((node) => htmx.trigger(node, "refresh"));
const isQuiet = (node) => document.hidden || paused || dialog?.open || !node.hasAttribute("hx-trigger");

document.addEventListener("htmx:configRequest", ({ detail }) => {
  // Only a header of our own lets htmx see the 304; left to the browser the old body would be swapped in again.
  if (isPoll(detail.elt) && detail.elt.dataset.etag) detail.headers["If-None-Match"] = `"${detail.elt.dataset.etag}"`;
});
document.addEventListener("htmx:beforeRequest", (event) => {
  if (isPoll(event.detail.elt) && isQuiet(event.detail.elt)) event.preventDefault();
});
document.addEventListener("htmx:beforeOnLoad", ({ detail }) => {
  // A poll may have replaced the row while its cancel was under way.
  const id = detail.elt.dataset.for;
  if (id) detail.target = byId(id) || detail.elt;
});
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { elt } = detail.requestConfig;
  // A poll that began before a cancel must not bring the older row back.
  if (elt.dataset.for) all("[data-poll]").forEach((node) => htmx.trigger(node, "htmx:abort"));
  if (!isPoll(elt)) return;
  if (detail.xhr.status >= 400) Object.assign(detail, { shouldSwap: false, isError: true });
  else if (dialog?.open || paused) detail.shouldSwap = false;
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!isPoll(detail.elt) || !detail.xhr.status || detail.xhr.status >= 400) return;
  byId("trouble")?.remove();
  const at = detail.xhr.getResponseHeader("X-As-Of");
  const shown = detail.elt.querySelector("[data-as-of]");
  if (at && shown && shown.dateTime !== at) {
    Object.assign(shown, { dateTime: at, title: `${at.slice(0, 19).replace("T", " ")} UTC` });
  }
  tick();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick(), refresh();
});

// --- Messages: one live region for all that happens without a page load.
const REFUSED = {
  403: "The panel refused this: your role may have changed, or this page is too old. Reload the page.",
  404: "This is no longer here, or no longer yours to see. Reload the page.",
};

function say(tone, text, id = "") {
  const note = document.createElement("p");
  Object.assign(note, { className: `notice notice-${tone}`, textContent: text, id });
  if (tone === "error") note.setAttribute("role", "alert");
  byId("messages").append(note);
}

new MutationObserver(() => {
  while (byId("messages").childElementCount > 5) byId("messages").firstElementChild.remove();
}).observe(byId("messages"), { childList: true });

function onTrouble({ detail }) {
  const status = detail.xhr?.status || 0;
  if (isPoll(detail.elt)) {
    const text = "The panel did not answer, so this page may be old. It keeps trying.";
    if (!byId("trouble")) say("warning", REFUSED[status] || text, "trouble");
  } else if (status) {
    say("error", REFUSED[status] || "The panel made a mistake. Look at the run before you try again.");
  } else {
    say("error", "The panel did not answer: whether the cancel was sent is not known. Look at the run before you try again.");
  }
}
for (const name of ["responseError", "sendError", "timeout"]) document.addEventListener(`htmx:${name}`, onTrouble);

// --- Cancel: one dialog for all rows, one request a click.
let asked = null;

function ask(button) {
  const place = button.closest("[data-cancel-target]");
  const fill = (name, text) => (dialog.querySelector(`[data-fill=${name}]`).textContent = text);
  const started = place.querySelector("[data-started]");
  asked = { button, id: place.id, url: button.formAction };
  fill("task", place.querySelector("[data-task]").textContent);
  fill("run", place.dataset.runId);
  fill("started", started ? `${started.textContent} (${started.title})` : place.dataset.status === "pending" ? "not yet" : "Arize does not tell");
  dialog.querySelector("form").reset();
  dialog.showModal();
}

function busy(id, is) {
  const button = byId(id)?.querySelector("[data-cancel]");
  if (!button) return;
  // Not `disabled`: that would drop the focus.
  button.ariaDisabled = button.ariaBusy = String(is);
}

async function send({ id, url }, values) {
  // A source of its own for each request: htmx lets a new request of one element push out an older one.
  const source = Object.assign(document.createElement("div"), { hidden: true });
  source.dataset.for = id;
  document.body.append(source);
  busy(id, true);
  const done = () => (busy(id, false), source.remove());
  await htmx.ajax("POST", url, { source, target: byId(id), swap: "rows", values }).then(done, done);
  refresh();
}

dialog?.addEventListener("submit", (event) => {
  event.preventDefault();
  const values = Object.fromEntries(new FormData(event.target));
  dialog.close();
  send(asked, values);
});
dialog?.addEventListener("close", () => refresh());

// --- Selecting: ticks survive the swaps of their rows; "all that match" is another button and knows nothing of them.
function keepPicked(old, fresh) {
  const box = old.querySelector("[data-pick]:checked") && fresh.querySelector("[data-pick]");
  if (box) box.checked = true;
}

function countPicked() {
  const page = document.querySelector("[data-pick-all]");
  if (!page) return;
  const boxes = [...all("[data-pick]")];
  const picked = boxes.filter((box) => box.checked).length;
  page.checked = picked > 0 && picked === boxes.length;
  page.indeterminate = picked > 0 && picked < boxes.length;
  page.disabled = !boxes.length;
  const text = picked ? `${picked} of this page selected` : "Tick the runs to cancel";
  const said = document.querySelector("[data-picked]");
  if (said.textContent !== text) said.textContent = text;
  document.querySelector("[data-many]").disabled = !picked;
}
document.addEventListener("change", ({ target }) => {
  if (target.matches("[data-pick-all]")) for (const box of all("[data-pick]")) box.checked = target.checked;
  if (target.matches("[data-pick], [data-pick-all]")) countPicked();
});

// --- Clicks, wherever the swaps put their buttons.
const CLICKS = {
  "[data-cancel]": (button, event) => {
    if (!dialog) return;
    event.preventDefault();
    if (button.ariaDisabled !== "true") ask(button);
  },
  "[data-close]": () => dialog.close(),
  "[data-dismiss]": (button) => button.closest(".notice").remove(),
  "[data-copy]": async (button) => {
    const copied = await navigator.clipboard?.writeText(button.dataset.copy).then(() => true, () => false);
    say(copied ? "info" : "warning", copied ? "Copied." : "The browser does not let this page copy. Select the text instead.");
  },
  "[data-pause]": (button) => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    refresh();
  },
};
document.addEventListener("click", (event) => {
  for (const [selector, act] of Object.entries(CLICKS)) {
    const hit = event.target.closest(selector);
    if (hit) act(hit, event);
  }
  for (const menu of all("[data-menu][open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", ({ key }) => {
  if (key !== "Escape") return;
  for (const menu of all("[data-menu][open]")) {
    if (menu.contains(document.activeElement)) menu.firstElementChild.focus();
    menu.open = false;
  }
});

tick();
countPicked();
setInterval(tick, 1000);
