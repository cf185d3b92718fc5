// "Notify me when this run ends": a notification of the browser, once, while the run's page is open in a tab.
const run = document.getElementById("run-page");
const place = document.querySelector("[data-notify]");
const button = place?.querySelector("button");
const url = run.getAttribute("hx-get");
// The choice survives a reload of this tab. It belongs to one person: someone else may sign in later in the same tab.
const key = `notify ${document.body.dataset.person} ${url}`;
const ENDED = ["completed", "failed", "cancelled", "gone"];
const EVERY = 15000;
const BLOCKED = "Your browser blocks notifications from this panel. Allow them in its settings for this site, then try again.";
const ON = "You will be notified once, while this page stays open.";
const OUT = "The panel no longer shows this run to you, so no notification will follow. Reload the page.";

const isChosen = () => sessionStorage.getItem(key) !== null;
const say = (text) => place && (place.querySelector("[role=status]").textContent = text);

function choose(on) {
  if (on) sessionStorage.setItem(key, "on");
  else sessionStorage.removeItem(key);
  button?.setAttribute("aria-pressed", String(on));
}

function notify(status) {
  const options = { body: "The run has ended. Its page shows the items and the history.", tag: key };
  try {
    const note = new Notification(`${status.toUpperCase()}: ${run.querySelector("[data-task]").textContent}`, options);
    note.addEventListener("click", () => (window.focus(), note.close()));
    say("");
  } catch {
    // Browsers of phones let no page show a notification by itself.
    say("The run has ended. Your browser did not show the notification.");
  }
}

function check(status) {
  if (!ENDED.includes(status)) return;
  const wasChosen = isChosen();
  choose(false);
  button?.remove();
  if (wasChosen) notify(status);
}

/** The page does not poll while its tab is in the background: then ask here, less often. */
async function look() {
  if (!document.hidden || !isChosen()) return;
  const headers = { "HX-Request": "true", ...JSON.parse(document.body.getAttribute("hx-headers")) };
  const answer = await fetch(url, { headers }).catch(() => null);
  if (!answer || answer.status >= 500) return;
  if (answer.status !== 200) return choose(false), say(OUT);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("run-page");
  if (fresh) check(fresh.dataset.status);
}

async function toggle() {
  if (isChosen()) return choose(false), say("");
  const granted = (await Notification.requestPermission()) === "granted";
  choose(granted);
  say(granted ? ON : BLOCKED);
}

if ("Notification" in window) {
  if (isChosen() && Notification.permission !== "granted") choose(false);
  if (place) {
    place.hidden = false;
    button.addEventListener("click", toggle);
    choose(isChosen());
    if (isChosen()) say(ON);
  }
  check(run.dataset.status);
  new MutationObserver(() => check(run.dataset.status)).observe(run, { attributeFilter: ["data-status"] });
  setInterval(look, EVERY);
}
