// Live updates. Runs can be seen and cancelled without this file: every button is also a plain form.
const { htmx } = window;
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// --- Times: relative times and durations update without requests, by the server's clock.
const skew = Number(document.body.dataset.now) * 1000 - Date.now();
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

function inWords(seconds, most) {
  const amounts = UNITS.map(([unit, size], i) => [Math.floor((i ? seconds % UNITS[i - 1][1] : seconds) / size), unit]);
  const words = amounts.filter(([amount, unit]) => amount || (unit === "s" && seconds < 1));
  return words.slice(0, most).map((word) => word.join(" ")).join(" ");
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

// --- Swaps: a node whose HTML has not changed is kept, and with it focus, checkboxes and open details.
const received = new WeakMap();
const asReceived = (node) => node.outerHTML.replace(/(csrfmiddlewaretoken" value=")[^"]*/g, "$1");
const remember = (root) => all("[data-parts] > [id]", root).forEach((node) => received.set(node, asReceived(node)));
const inParts = (node) => "parts" in node.dataset;

/** Update `old` to match `fresh`, matching children by id. Returns the added nodes. */
function update(old, fresh) {
  const its = (attribute) => !["class", "open"].includes(attribute.name);
  for (const { name } of [...old.attributes].filter(its)) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes].filter(its)) old.setAttribute(name, value);
  const known = new Map([...old.children].map((child) => [child.id, child]));
  const added = [];
  const wanted = [...fresh.children].map((child) => {
    const kept = child.id && known.get(child.id);
    if (kept && inParts(kept) && inParts(child)) return added.push(...update(kept, child)), kept;
    if (kept && received.get(kept) === received.get(child)) return kept;
    const box = kept && one("[data-pick]:checked", kept) && one("[data-pick]", child);
    if (box) box.checked = true;
    return added.push(child), child;
  });
  for (const child of [...old.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((node, i) => node === old.children[i] || old.insertBefore(node, old.children[i] ?? null));
  return added;
}

/** Move the focus from a replaced control to the one with the same text, or if there is none, to the row's title. */
function restoreFocus(before, place) {
  if (!before || before === document.body || document.activeElement === before) return;
  const root = byId(place);
  const alike = (node) => node.textContent === before.textContent && node.name === before.name;
  const again = before.isConnected ? before : root && (all(before.localName, root).find(alike) || one("[data-task]", root));
  again?.focus({ preventScroll: true });
}

htmx.defineExtension("rows", {
  isInlineSwap: (style) => style === "rows",
  handleSwap(style, target, fragment) {
    const fresh = fragment.firstElementChild;
    if (style !== "rows" || !fresh || !target.isConnected) return false;
    const focused = document.activeElement;
    const place = focused?.closest("tr[id], [data-cancel-target]")?.id;
    const inPlace = inParts(target) && target.id === fresh.id;
    remember(fragment);
    received.set(fresh, asReceived(fresh));
    const added = inPlace ? update(target, fresh) : [fresh];
    if (!inPlace) target.replaceWith(fresh);
    tick();
    restoreFocus(focused, place);
    countPicked();
    return added;
  },
});

// --- State that survives a reload and the back button, stored in this history entry. It belongs to one person: someone
// else who signs in later in the same tab does not get it.
const { person } = document.body.dataset;
const before = history.state?.person === person ? history.state : {};
const kept = { picked: [], opened: [], paused: false, ...before, person };
const keep = (values) => history.replaceState(Object.assign(kept, values), "");
const keepOpened = () => keep({ opened: all("details[id][open]").map(({ id }) => id) });

// --- Polling: stops while the page is hidden, a dialog is open, or updates are paused. Resumes immediately.
let leaving = false;
const isPoll = (node) => node?.dataset?.poll !== undefined;
const refresh = () => all("[data-poll]").forEach((node) => htmx.trigger(node, "refresh"));
const isHeld = () => kept.paused || one("dialog[open]");

function showPause() {
  const button = one("[data-pause]");
  if (!button) return;
  button.setAttribute("aria-pressed", String(kept.paused));
  one("[data-paused]").hidden = !kept.paused;
}

document.addEventListener("htmx:configRequest", ({ detail }) => {
  // Set the header ourselves so that htmx sees the 304. Otherwise the browser answers from its cache with the old body.
  if (isPoll(detail.elt) && detail.elt.dataset.etag) detail.headers["If-None-Match"] = `"${detail.elt.dataset.etag}"`;
});
document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt } = event.detail;
  if (isPoll(elt) && (document.hidden || isHeld() || !elt.hasAttribute("hx-trigger"))) event.preventDefault();
});
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const { detail } = event;
  if (detail.xhr.getResponseHeader("HX-Redirect")) {
    // Redirect once, and prefer the redirect of a cancel to a poll's: its URL says what was not sent.
    if (leaving || (isPoll(detail.elt) && one("[data-for]"))) return event.preventDefault();
    leaving = true;
  }
  // A poll may have replaced the row while its cancel was in progress.
  const id = detail.elt.dataset.for;
  if (id) detail.target = byId(id) || detail.elt;
});
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { elt } = detail.requestConfig;
  // A poll that started before a cancel must not restore the old row.
  if (elt.dataset.for) all("[data-poll]").forEach((node) => htmx.trigger(node, "htmx:abort"));
  if (isPoll(elt) && detail.xhr.status >= 400) Object.assign(detail, { shouldSwap: false, isError: true });
  else if (isPoll(elt) && isHeld()) detail.shouldSwap = false;
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!isPoll(detail.elt) || !detail.xhr.status || detail.xhr.status >= 400) return;
  byId("trouble")?.remove();
  const at = detail.xhr.getResponseHeader("X-As-Of");
  const shown = one("[data-as-of]", detail.elt);
  if (at && shown) Object.assign(shown, { dateTime: at, title: `${at.slice(0, 19).replace("T", " ")} UTC` });
  tick();
});
document.addEventListener("visibilitychange", () => document.hidden || (tick(), refresh()));

// --- Messages: one live region for everything that happens without a page load.
const TOO_OLD = "The panel refused this. Your role may have changed, or this page is out of date. Reload the page.";
const REFUSED = { 403: TOO_OLD, 404: "This no longer exists, or you no longer have access to it. Reload the page." };
const UNSURE = "Check the run before you try again.";

function say(tone, textContent, id = "") {
  const note = Object.assign(document.createElement("p"), { className: `notice notice-${tone}`, textContent, id });
  if (tone === "error") note.setAttribute("role", "alert");
  byId("messages").append(note);
}

new MutationObserver(() => {
  while (byId("messages").childElementCount > 5) byId("messages").firstElementChild.remove();
}).observe(byId("messages"), { childList: true });

function onTrouble({ detail }) {
  const status = detail.xhr?.status || 0;
  if (!isPoll(detail.elt) && status) return say("error", REFUSED[status] || `Something went wrong in the panel. ${UNSURE}`);
  if (!isPoll(detail.elt)) return say("error", `The panel did not answer. It is unknown whether the cancel was sent. ${UNSURE}`);
  const text = REFUSED[status] || "The panel does not answer. This page may be out of date. It keeps trying.";
  return byId("trouble") || say("warning", text, "trouble");
}
for (const name of ["responseError", "sendError", "timeout"]) document.addEventListener(`htmx:${name}`, onTrouble);

// --- Cancel: one dialog for all rows, one request per click.
const dialog = byId("cancel-dialog");
let asked = null;

function ask(button) {
  const place = button.closest("[data-cancel-target]");
  const fill = (name, text) => Object.assign(one(`[data-fill=${name}]`, dialog), { textContent: text, title: text });
  const started = one("[data-started]", place);
  const notStarted = place.dataset.status === "pending" ? "not yet" : "not reported by Arize";
  asked = { id: place.id, url: button.formAction };
  fill("task", one("[data-task]", place).textContent);
  fill("run", place.dataset.runId);
  fill("started", started ? `${started.textContent} (${started.title})` : notStarted);
  one("form", dialog).reset();
  dialog.showModal();
}

function busy(id, is) {
  // Not `disabled`, which would lose the focus.
  for (const button of all(`#${id} [data-cancel]`)) button.ariaDisabled = button.ariaBusy = String(is);
}

async function send({ id, url }, values) {
  // Each request has its own source element: htmx aborts an element's previous request when it starts a new one.
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
  dialog.close();
  send(asked, Object.fromEntries(new FormData(event.target)));
});
for (const box of all("dialog")) box.addEventListener("close", refresh);

// --- Selecting: checkboxes survive swaps of their rows. "Cancel all that match" ignores them.
function countPicked() {
  const page = one("[data-pick-all]");
  if (!page) return;
  const boxes = all("[data-pick]");
  const ticked = boxes.filter((box) => box.checked).map((box) => box.value);
  const picked = ticked.length;
  // Store only visible checkboxes: the selection of a row that has left the page must not come back.
  if (String(ticked) !== String(kept.picked)) keep({ picked: ticked });
  const state = { checked: picked > 0 && picked === boxes.length, indeterminate: picked > 0 && picked < boxes.length };
  Object.assign(page, state, { disabled: !boxes.length });
  const text = picked ? `${picked} selected on this page` : "Select runs to cancel";
  if (one("[data-picked]").textContent !== text) one("[data-picked]").textContent = text;
  one("[data-many]").disabled = !picked;
}
document.addEventListener("change", ({ target }) => {
  if (target.matches("[data-pick-all]")) for (const box of all("[data-pick]")) box.checked = target.checked;
  if (target.matches("[data-pick], [data-pick-all]")) countPicked();
});

// --- Clicks: handled on the document, because swaps replace the buttons.
const CLICKS = {
  "[data-cancel]": (button, event) => {
    if (!dialog) return;
    event.preventDefault();
    if (button.ariaDisabled !== "true") ask(button);
  },
  "[data-close]": (button) => button.closest("dialog").close(),
  "[data-dismiss]": (button) => button.closest(".notice").remove(),
  "[data-copy]": async (button) => {
    const copied = await navigator.clipboard?.writeText(button.dataset.copy).then(() => true, () => false);
    say(copied ? "info" : "warning", copied ? "Copied." : "The browser did not allow copying. Select the text instead.");
  },
  "[data-pause]": () => {
    keep({ paused: !kept.paused });
    showPause();
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

// --- Keyboard: single letters work only while no text is typed, and not if the person has turned them off.
function move(by) {
  const titles = all("tr[data-run-id] [data-task]");
  const here = titles.findIndex((title) => title.closest("tr").contains(document.activeElement));
  titles[Math.max(0, Math.min(titles.length - 1, here + by))]?.focus();
}
const clickIn = (selector) => {
  const run = document.activeElement.closest("[data-run-id]") ?? byId("run-page");
  if (run) one(selector, run)?.click();
};
const KEYS = {
  "/": () => one("[type=search]")?.focus(),
  j: () => move(1),
  k: () => move(-1),
  x: () => clickIn("[data-pick]"),
  c: () => clickIn("[data-cancel]"),
  "?": () => byId("shortcuts")?.showModal(),
};
document.addEventListener("keydown", (event) => {
  for (const menu of event.key === "Escape" ? all("[data-menu][open]") : []) {
    if (menu.contains(document.activeElement)) menu.firstElementChild.focus();
    menu.open = false;
  }
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea") || one("dialog[open]");
  const isOff = document.body.dataset.shortcuts === "off" || event.ctrlKey || event.metaKey || event.altKey;
  if (typing || isOff || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

remember(document);
tick();
for (const box of all("[data-pick]")) box.checked = kept.picked.includes(box.value);
for (const node of all("details[id]")) node.open ||= kept.opened.includes(node.id);
document.addEventListener("toggle", ({ target }) => target.matches("details[id]") && keepOpened(), true);
countPicked();
showPause();
addEventListener("hashchange", () => keep({}));
setInterval(tick, 1000);
