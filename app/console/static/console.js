// Live updates and keys. Everything here can be done without it, by links and forms.
"use strict";
document.documentElement.classList.add("scripted");
const $ = (s, of = document) => of.querySelector(s), all = (s, of = document) => [...of.querySelectorAll(s)];

// The page's own address. A form that was not taken shows its page at the form's address, which cannot be asked for.
const live = $("#live"), page = $(".approval");
const own = page ? "/console/approvals/" + page.dataset.approval
  : live && live.dataset.liveMission ? "/console/missions/" + live.dataset.liveMission : location.pathname;
const here = own === location.pathname ? own + location.search : own;

// --- said, copied, and how long ago

const told = $("#said");
function say(text, link) {
  const line = document.createElement(link ? "a" : "span");
  line.textContent = text;
  if (link) line.href = link;
  told.replaceChildren(line);
  if (!link) setTimeout(() => line.remove(), 2500);
}
document.addEventListener("click", async (event) => {
  const found = event.target.closest("[data-copy]");
  if (!found) return;
  event.preventDefault();
  try { await navigator.clipboard.writeText(found.dataset.copy); say("Copied"); } catch { say(found.dataset.copy); }
});
function span(seconds) {
  for (const [size, name, lower, below] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]])
    if (seconds >= size) {
      const rest = Math.floor(seconds % size / lower);
      return Math.floor(seconds / size) + " " + name + (rest && seconds < 10 * size ? " " + rest + " " + below : "");
    }
  return Math.floor(seconds) + " s";
}
function tick() {
  const now = Date.now();
  for (const one of all("time[data-ago]")) {
    const age = (now - Date.parse(one.dateTime)) / 1000;
    one.textContent = age < -1 ? "in " + span(-age) : age < 2 ? "now" : span(age) + " ago";
  }
  for (const one of all("time[data-until]")) {
    const left = (Date.parse(one.dateTime) - now) / 1000;
    one.textContent = left > 0 ? span(left) : "over";
    if (left <= 0 && one.closest(".approval") && !one.dataset.over) { one.dataset.over = "1"; over(); }
  }
}
function over(words) {
  if (page && page.dataset.moved !== "1") { page.dataset.moved = words ? "" : "1"; say(words || "Its time has moved on: look again", own); }
}
setInterval(tick, 1000);

// --- live: one stream of facts; a list is fetched again, a page that is being worked on only says that it changed

function busy() {
  const at = document.activeElement;
  return at && /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName);
}
async function refresh(part) {
  if (busy()) return;
  const at = document.activeElement && document.activeElement.getAttribute("href");
  const answer = await fetch(here, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (answer.status === 429 || answer.status === 503) return soon(part, 1000 * (Number(answer.headers.get("Retry-After")) || 3));
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(part.id);
  if (!fresh || busy()) return;
  part.replaceChildren(...fresh.childNodes);
  if (at) { const again = all("[data-row]", part).find((one) => one.getAttribute("href") === at); if (again) again.focus(); }
}
let due = 0;
function soon(part, wait = 400) {
  clearTimeout(due);
  due = setTimeout(() => refresh(part).catch(() => soon(part, 10000)), wait);
}
const KINDS = ["mission.accepted", "mission.dispatched", "mission.running", "mission.in_review", "mission.reviewed", "mission.awaiting_approval",
  "mission.executing", "mission.completed", "mission.failed", "mission.denied", "mission.cancelled", "mission.degraded", "stage.started",
  "stage.completed", "artifact.stored", "writeback.proposed", "writeback.claimed", "writeback.settled", "approval.opened", "approval.decided",
  "approval.closed", "approval.superseded", "approval.escalated", "approval.glass_broken", "approval.reassigned", "approval.questioned",
  "approval.answered"];
const WORDS = { "approval.questioned": "Somebody asked about it: look again", "approval.answered": "A question was answered: look again" };
function changed(words) {
  if (live) soon(live);
  if (page) { if (busy() || all("details.panel[open], form[data-sent]").length) over(words); else location.replace(here); }
}
let source;
function listen(after, wait) {
  let missed = !after;
  source = new EventSource("/console/stream?after=" + encodeURIComponent(after));
  const heard = (event) => {
    const fact = JSON.parse(event.data);
    after = event.lastEventId;
    const listed = live && (live.dataset.liveMission ? live.dataset.liveMission === fact.subject : fact.type.startsWith(live.dataset.live));
    const asked = page && fact.type !== "approval.seen" && fact.body.approval === page.dataset.approval;
    if (listed || asked) changed(WORDS[fact.type]);
  };
  KINDS.forEach((kind) => source.addEventListener(kind, heard));
  // The browser takes up a stream that broke; one that was refused, because the database was busy for a moment, it leaves for good.
  source.onopen = () => { wait = 2000; if (missed) { missed = false; changed(); } };
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, wait, after, Math.min(2 * wait, 60000)); };
}
if ((live || page) && window.EventSource) {
  listen($("#main").dataset.after, 2000);
  addEventListener("pagehide", () => source.close());
}

// --- deciding: panels, and a moment to look

function open(name) {
  const panel = $("#panel-" + name);
  if (!panel) {
    const why = $("#why-" + name);
    if (why) say(why.textContent);
    return;
  }
  all("details.panel").forEach((one) => { one.open = one === panel; });
  const first = $("input:not([type=hidden]):not([type=radio]), textarea, [data-preset]", panel);
  ((name === "approve" && !$("input[required]:not([type=hidden])", panel) && $("[data-confirm]", panel)) || first || $("button", panel)).focus();
  panel.scrollIntoView({ block: "nearest" });
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-open]");
  if (button) open(button.dataset.open);
});
const shown = performance.now();
for (const form of all("form[data-dwell]")) {
  const wait = Number(form.dataset.dwell) * 1000, button = $("[data-confirm]", form), title = button.textContent;
  const hold = () => {
    const left = wait - (performance.now() - shown);
    if (left > 0) { button.setAttribute("aria-disabled", "true"); button.textContent = title + " (" + Math.ceil(left / 1000) + " s)"; setTimeout(hold, Math.min(left, 250)); }
    else { button.removeAttribute("aria-disabled"); button.textContent = title; }
  };
  hold();
  form.addEventListener("submit", (event) => {
    if (event.submitter === button && performance.now() - shown < wait) { event.preventDefault(); say("Look at it for a second first"); }
  });
}
for (const form of all("form[method=post]")) form.addEventListener("submit", (event) => {
  if (event.defaultPrevented) return;
  if (form.dataset.sent) { event.preventDefault(); return; }
  form.dataset.sent = "1";
  if (event.submitter) event.submitter.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => all("form[data-sent]").forEach((form) => delete form.dataset.sent));

// --- keys

function move(step) {
  const rows = all("[data-row]");
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}
const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  d: () => { const raw = $("#raw"); if (raw) { raw.open = !raw.open; raw.scrollIntoView({ block: "nearest" }); } },
  e: () => { const part = $("#evidence"); if (part) { part.classList.toggle("whole"); part.scrollIntoView({ block: "start" }); part.focus(); } },
  a: () => page && open("approve"),
  r: () => page && open("reject"),
  s: () => page && open("ask"),
  x: () => page && open("escalate"),
  i: () => { location.href = "/console"; },
  "/": () => ($("#q") || $("#search")).focus(),
  "?": () => { const help = $("#help"); if (help && !help.open) help.showModal(); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("dialog[open]")) return;
  const at = document.activeElement;
  if (event.key === "Escape") { all("details.panel").forEach((one) => { one.open = false; }); if (at) at.blur(); return; }
  const typing = at && (/^(TEXTAREA|SELECT)$/.test(at.tagName) || (at.tagName === "INPUT" && !/^(radio|checkbox)$/.test(at.type)));
  if (typing) return;
  const reasons = $("#panel-reject");
  if (reasons && reasons.open && /^[1-9]$/.test(event.key)) {
    const one = all("[data-preset]", reasons)[Number(event.key) - 1];
    if (one) { one.checked = true; $("[data-confirm]", reasons).focus(); event.preventDefault(); }
    return;
  }
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});
