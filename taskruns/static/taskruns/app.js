// Live updates. Runs can be seen and cancelled without this file: every button is also a plain form.
const { htmx } = window;
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// --- Times: relative times and durations update without requests, by the server's clock.
// Both clocks at the moment when the page arrived: this script may run much later. The server's is in microseconds.
const [arrival] = performance.getEntriesByType("navigation");
const skew = Number(document.body.dataset.now) / 1000 - (performance.timeOrigin + arrival.responseStart);
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
  const isCancel = "cancel" in before.dataset;
  const alike = (node) =>
    node.name === before.name && (isCancel ? "cancel" in node.dataset : node.textContent === before.textContent);
  const again = before.isConnected ? before : root && (all(before.localName, root).find(alike) || one("[data-task]", root));
  again?.focus({ preventScroll: true });
}

htmx.defineExtension("rows", {
  isInlineSwap: (style) => style === "rows",
  handleSwap(style, target, fragment) {
    const fresh = fragment.firstElementChild;
    if (style !== "rows" || !fresh || !target.isConnected) return false;
    if (target.dataset.for) return []; // the answer of a cancel whose row has left the page: only its message counts
    if (fresh.dataset.title) document.title = fresh.dataset.title;
    const focused = document.activeElement;
    const place = focused?.closest("tr[id], [data-cancel-target]")?.id;
    const inPlace = inParts(target) && target.id === fresh.id;
    remember(fragment);
    received.set(fresh, asReceived(fresh));
    const trigger = target.getAttribute("hx-trigger");
    const added = inPlace ? update(target, fresh) : [fresh];
    // htmx reads the interval of a poll only once.
    if (inPlace && fresh.hasAttribute("hx-trigger") && fresh.getAttribute("hx-trigger") !== trigger) htmx.process(target);
    if (!inPlace) target.replaceWith(fresh);
    tick();
    restoreFocus(focused, place);
    countPicked();
    rove();
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

// A board polls shortly after the next reading is due, so that a change waits for one interval only. A poll that comes
// before a reading is repeated soon, but not for a worker that stands still.
const PACE = 5000;
const WRITTEN = 800;
const PATIENCE = 2000;
const isPaced = (node) => node?.dataset?.paced !== undefined;
let pollAt = Date.now() + PACE;

function planPoll(statusesAt) {
  const wait = Date.parse(statusesAt) - skew + PACE + WRITTEN - Date.now();
  pollAt = Date.now() + (wait > -PATIENCE ? Math.min(PACE, Math.max(1000, wait)) : PACE);
}

setInterval(() => {
  if (Date.now() < pollAt) return;
  pollAt = Date.now() + PACE;
  for (const node of all("[data-paced]")) htmx.trigger(node, "refresh");
}, 200);

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
// An unchanged table still gets newer: a 304 carries its ages in headers.
const AGES = { "as-of": "X-As-Of", statuses: "X-Statuses-At", searched: "X-Searched-At" };
function showAge(root, name, at) {
  const shown = at && one(`time[data-${name}]`, root);
  if (shown) Object.assign(shown, { dateTime: at, title: `${at.slice(0, 19).replace("T", " ")} UTC` });
  if (at && root.hasAttribute(`data-${name}-at`)) root.setAttribute(`data-${name}-at`, at);
}
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const { elt, xhr } = detail;
  if (!isPoll(elt) || !xhr.status || xhr.status >= 400) return;
  byId("trouble")?.remove();
  if (isPaced(elt)) planPoll(xhr.getResponseHeader("X-Statuses-At"));
  // Rows that were not swapped are as old as before.
  if (xhr.status !== 304 && isHeld()) return;
  for (const [name, header] of Object.entries(AGES)) showAge(elt, name, xhr.getResponseHeader(header));
  tick();
});
document.addEventListener("visibilitychange", () => document.hidden || (tick(), refresh()));

// --- Messages: one live region for everything that happens without a page load.
const TOO_OLD = "The panel refused this. Your role may have changed, or this page is out of date. Reload the page.";
const REFUSED = { 403: TOO_OLD, 404: "This no longer exists, or you no longer have access to it. Reload the page." };
const UNSURE = "Check the run before you try again.";

function say(tone, text, id = "") {
  const note = Object.assign(document.createElement("p"), { className: `notice notice-${tone}`, id });
  if (tone === "error") note.setAttribute("role", "alert");
  const words = Object.assign(document.createElement("span"), { textContent: text });
  const close = Object.assign(document.createElement("button"), { type: "button", className: "notice-close", textContent: "×" });
  close.ariaLabel = "Dismiss this message";
  close.dataset.dismiss = "";
  note.append(words, close);
  byId("messages").append(note);
}

const GOOD = "#messages > :is(.notice-success, .notice-info)";
new MutationObserver(() => {
  while (byId("messages").childElementCount > 5) (one(GOOD) || byId("messages").firstElementChild).remove();
}).observe(byId("messages"), { childList: true });

// Good news leaves by itself, but not while it is pointed at, has the focus or cannot be seen. Trouble stays.
const SHOWN = 8;
const seen = new WeakMap();
setInterval(() => {
  for (const note of all(GOOD)) {
    if (document.hidden || note.matches(":hover, :focus-within")) continue;
    seen.set(note, (seen.get(note) ?? 0) + 1);
    if (seen.get(note) >= SHOWN) note.remove();
  }
}, 1000);

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
let opened = -Infinity;
// The reasons of cancels that got no answer, by row.
const unsent = new Map();

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
  one("[name=reason]", dialog).value = unsent.get(place.id) ?? "";
  opened = performance.now();
  dialog.showModal();
}

function busy(id, is) {
  for (const button of all(`#${id} [data-cancel]`)) {
    // Not `disabled`, which would lose the focus.
    button.ariaDisabled = button.ariaBusy = String(is);
    button.dataset.word ??= button.firstChild.data;
    button.firstChild.data = is ? "Sending…" : button.dataset.word;
  }
}

async function send({ id, url }, values) {
  // Each request has its own source element: htmx aborts an element's previous request when it starts a new one.
  const source = Object.assign(document.createElement("div"), { hidden: true });
  source.dataset.for = id;
  document.body.append(source);
  busy(id, true);
  const done = () => (busy(id, false), source.remove());
  unsent.set(id, values.reason);
  source.addEventListener("htmx:afterRequest", ({ detail }) => 0 < detail.xhr.status && detail.xhr.status < 500 && unsent.delete(id));
  await htmx.ajax("POST", url, { source, target: byId(id), swap: "rows", values }).then(done, done);
  refresh();
}

dialog?.addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close();
  send(asked, Object.fromEntries(new FormData(event.target)));
});
for (const box of all("dialog")) box.addEventListener("close", refresh);

// --- Enter: pressed twice or held on a row's button, it does not confirm the question that it opened. On a checkbox, a
// browser clicks the first button of its form: for the emergency stop, that is the one that pulls it.
const TWICE = 500;
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const isHasty = event.repeat || performance.now() - opened < TWICE;
  const isBox = event.target.matches(".stop-form [type=checkbox]");
  if (isBox || (isHasty && event.target.matches("#cancel-dialog input"))) event.preventDefault();
});
dialog?.addEventListener("input", () => (opened = -Infinity)); // who has typed has seen the question
for (const button of all("[data-without-script]")) button.remove();

// --- A double click sends a form once. A page may stay after it, for example for a download.
const REPEATABLE = 3000;
const justSent = new Set();
document.addEventListener("submit", (event) => {
  const { target } = event;
  if (event.defaultPrevented || target.method !== "post") return;
  if (justSent.has(target)) return event.preventDefault();
  justSent.add(target);
  setTimeout(() => justSent.delete(target), REPEATABLE);
});
addEventListener("pageshow", () => justSent.clear());

// --- Selecting: checkboxes survive swaps of their rows. "Cancel all that match" ignores them.
const teamOf = (box) => box.closest("tr").dataset.team ?? "";

function countPicked() {
  const bar = one(".batch-bar"); // the help page has a section `many`
  if (!bar) return;
  const boxes = all("[data-pick]");
  const ticked = boxes.filter((box) => box.checked);
  const ids = ticked.map((box) => box.value);
  const picked = ids.length;
  // Store only visible checkboxes: the selection of a row that has left the page must not come back.
  if (String(ids) !== String(kept.picked)) keep({ picked: ids });
  const state = { checked: picked > 0 && picked === boxes.length, indeterminate: picked > 0 && picked < boxes.length };
  for (const box of all("[data-pick-all]")) Object.assign(box, state, { disabled: !boxes.length });
  for (const node of all("[data-pickable]")) node.textContent = `(${boxes.length})`;
  showBar(bar, ticked);
}

/** A bulk cancel is one team's: its button is shown, and none works while runs of several teams are selected. The style
    sheet hides a button that can do nothing for the selected runs. */
function showBar(bar, ticked) {
  const picked = ticked.length;
  const teams = new Set(ticked.map(teamOf));
  const acts = new Set(ticked.map((box) => box.dataset.pick));
  const isMixed = teams.size > 1;
  const mixed = "Runs of several teams are selected. A bulk cancel is for one team: select runs of one team only.";
  const text = isMixed ? mixed : picked ? `${picked} selected on this page` : "Select runs to cancel";
  if (one("[data-picked]", bar).textContent !== text) one("[data-picked]", bar).textContent = text;
  for (const button of all("[data-many]", bar)) {
    button.disabled = isMixed || !acts.has(button.dataset.many);
    button.hidden = isMixed || (teams.size === 1 && !teams.has(button.dataset.team ?? ""));
    if (button.hidden) button.disabled = true;
  }
}

// How high the bar is decides where the browser stops when it scrolls to what gets the focus. The box whose tick makes
// the bar appear has it already.
const barHeight = new ResizeObserver(([{ target }]) => {
  document.documentElement.style.setProperty("--bar", `${target.offsetHeight}px`);
  if (document.activeElement.matches("[data-pick]")) document.activeElement.scrollIntoView({ block: "nearest" });
});
for (const bar of all(".batch-bar")) barHeight.observe(bar);

function pickAll(checked) {
  for (const box of all("[data-pick]")) box.checked = checked;
  countPicked();
}
document.addEventListener("change", ({ target }) => {
  if (target.matches("[data-pick-all]")) pickAll(target.checked);
  else if (target.matches("[data-pick]")) countPicked();
});

// --- Filters: apply on change, and leave no empty parameter in the address. The form reads times in the person's zone.
const form = byId("filters");
const REOPEN = "filter-changed";

function applyFilters() {
  const chosen = [...new FormData(form)].filter(([, value]) => value);
  location.assign(`${form.action}?${new URLSearchParams(chosen.length ? chosen : [["all", "1"]])}`);
}
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  applyFilters();
});
form?.addEventListener("change", ({ target }) => {
  // A text or a time is complete only when its field is left or Enter is pressed.
  if (!target.matches("select, [type=checkbox]")) return;
  sessionStorage.setItem(REOPEN, target.id || `${target.name}=${target.value}`);
  applyFilters();
});
form?.addEventListener("focusout", ({ target, relatedTarget }) => {
  if (!target.matches("input:not([type=checkbox])") || target.value === target.defaultValue) return;
  if (!target.checkValidity()) return;
  if (form.contains(relatedTarget)) sessionStorage.setItem(REOPEN, relatedTarget.id);
  applyFilters();
});

/** The number on these buttons is that of the applied filter, so what is typed is applied first. */
byId("match-all")?.addEventListener("submit", (event) => {
  const isTyped = [...form.elements].some((it) => it.matches("input") && it.value !== it.defaultValue);
  if (!isTyped) return;
  event.preventDefault();
  applyFilters();
});

/** A chip keeps a search that is typed but not applied yet. */
function keepTypedSearch(link) {
  const search = byId("filter-q");
  if (!search || search.value === search.defaultValue) return;
  const url = new URL(link.href);
  url.searchParams.set("q", search.value);
  if (!search.value) url.searchParams.delete("q");
  link.href = url;
}

function reopenFilters() {
  const changed = sessionStorage.getItem(REOPEN);
  sessionStorage.removeItem(REOPEN);
  if (!form || !changed) return;
  const [name, value] = changed.split("=");
  byId("filters-box").open = true;
  (byId(changed) ?? all(`[name="${name}"]`, form).find((box) => box.value === value))?.focus();
}

// --- The strip of hours is one link: it leads to the hour under the pointer.
document.addEventListener("pointermove", ({ target, clientX }) => aimAtHour(target, clientX));
document.addEventListener("pointerdown", ({ target, clientX }) => aimAtHour(target, clientX));
function aimAtHour(target, clientX) {
  const link = target.closest?.("[data-hours]");
  if (!link) return;
  const { left, width } = link.getBoundingClientRect();
  const urls = link.dataset.hours.split(" ");
  const hour = Math.floor(((clientX - left) / width) * urls.length);
  link.href = urls[Math.max(0, Math.min(urls.length - 1, hour))];
}

// --- Toolbars: Tab reaches each of them once, the arrow keys move inside.
const stops = new WeakMap(); // toolbar -> the item that Tab reaches
const itemsOf = (bar) => all("a[href], button, summary, input", bar).filter((it) =>
  it.closest("[data-roving]") === bar && !it.closest(".menu-list") && it.checkVisibility());

function rove() {
  for (const bar of all("[data-roving]")) {
    const items = itemsOf(bar);
    const known = [document.activeElement, stops.get(bar)].find((it) => items.includes(it));
    const stop = known ?? items.find((it) => it.ariaCurrent) ?? items[0];
    stops.set(bar, stop);
    for (const it of items) it.tabIndex = it === stop ? 0 : -1;
  }
}
const STEPS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
document.addEventListener("keydown", (event) => {
  const bar = STEPS[event.key] && event.target.closest("[data-roving]");
  const items = bar ? itemsOf(bar) : [];
  const here = items.indexOf(event.target);
  if (here < 0) return;
  event.preventDefault();
  items[Math.max(0, Math.min(items.length - 1, here + STEPS[event.key]))].focus();
  rove();
});

// --- The profile offers the time zone of the browser, if it is another one.
const { timeZone: zone } = Intl.DateTimeFormat().resolvedOptions();
const offer = one("[data-zone-offer]");
if (offer) {
  const { value, options } = one("[name=time_zone]");
  one("[data-zone]", offer).textContent = zone.replaceAll("_", " ");
  offer.hidden = value === zone || ![...options].some((option) => option.value === zone);
}

// --- Clicks: handled on the document, because swaps replace the buttons.
const CLICKS = {
  "[data-cancel]": (button, event) => {
    if (!dialog) return;
    event.preventDefault();
    if (button.ariaDisabled !== "true") ask(button);
  },
  ".chip": keepTypedSearch,
  "[data-close]": (button) => button.closest("dialog").close(),
  "[data-dismiss]": (button) => button.closest(".notice").remove(),
  "[data-hide]": ({ dataset }) => {
    document.cookie = `${dataset.cookie}=1; path=/; max-age=${60 * 60 * 24 * 31}; samesite=lax`;
    byId(dataset.hide).remove();
  },
  "[data-unpick]": () => {
    pickAll(false);
    one("[data-pick]")?.focus();
  },
  "[data-copy]": async (button) => {
    const copied = await navigator.clipboard?.writeText(button.dataset.copy).then(() => true, () => false);
    say(copied ? "info" : "warning", copied ? "Copied." : "The browser did not allow copying. Select the text instead.");
  },
  "[data-print]": () => print(),
  "[data-use-zone]": () => {
    const select = one("[name=time_zone]");
    select.value = zone;
    select.form.requestSubmit();
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
rove();
showPause();
reopenFilters();
addEventListener("hashchange", () => keep({}));
setInterval(tick, 1000);
