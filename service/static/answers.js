// Takes a picture however it comes (chosen, dropped, pasted, an example), asks the service for its
// answers and puts them in place. Without this script the same form and links answer plain pages.

const parser = new DOMParser();
const find = (selector) => document.querySelector(selector);
let key = null; // an API key, where the service asks for one; it lives as long as the tab's page
let asked = 0; // which question is the latest: an answer to an older one comes too late
let version = ""; // of the nets that are asked; none is each variant's current
let picture = {}; // what is answered: a file of the user's, or else the example that a link names
let wanted = {}; // what the latest question is about; once it is answered, the same
let addressed = ""; // the version that the page's address named when it was last heeded
let shownAt = ""; // the one that it named when the nets that are shown answered
let before = null; // where the focus was when a problem was told

const FORM_BYTES = 1024; // more than what a form puts around a file
const UNREACHABLE = ["No answer", "The service cannot be reached. Is it running?"];
const unreadable = ({ status }) => [`Error ${status}`, "The answer cannot be read."];
const authorized = () => (key ? { "X-API-Key": key } : {});

async function ask(address, options, question) {
  const turn = ++asked;
  wanted = question;
  find("#answers").setAttribute("aria-busy", "true");
  let found;
  try {
    const response = await fetch(chosen(address), { ...options, headers: authorized() });
    found = response.ok ? await read(response) : problem(...(await trouble(response)));
  } catch {
    found = problem(...UNREACHABLE);
  }
  if (turn === asked) settle(found, question);
}

// The latest question has its answers, or a problem in their place.
function settle(found, question) {
  const answers = find("#answers");
  const failed = found.id === "problem";
  answers.removeAttribute("aria-busy");
  if (failed) tell(found);
  else show(found, question);
  wanted = picture;
  mark();
  // Loaded again, kept or sent on, the address leads to the nets that are shown, also where a way
  // back to others has failed. One that says the same in other words, as the latest version's own,
  // stays.
  if (version !== answers.dataset.version || (failed && named() !== shownAt)) {
    history.replaceState(history.state, "", chosen(location));
  }
  addressed = shownAt = named();
}

// The version that the address names.
const named = () => new URL(location).searchParams.get("version") ?? "";

// The same picture for other nets.
function again(of) {
  version = of;
  if (wanted.file) upload(wanted.file);
  else ask(wanted.link.href, {}, wanted);
}

// An address where the nets of the chosen version answer.
function chosen(address) {
  const url = new URL(address, location.href);
  if (version) url.searchParams.set("version", version);
  else url.searchParams.delete("version");
  return url;
}

// Whose answers are shown is whose version is chosen, and whom the examples' links lead to.
function mark() {
  version = find("#answers").dataset.version;
  for (const link of document.querySelectorAll(".versions a")) {
    if (link.dataset.version === version) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  for (const link of document.querySelectorAll(".examples a")) {
    const { pathname, search } = chosen(link.href);
    link.setAttribute("href", pathname + search);
  }
}

// The answers of a page.
async function read(response) {
  const page = parser.parseFromString(await response.text(), "text/html");
  return page.querySelector("#answers") ?? problem(...unreadable(response));
}

// Title and detail of a problem, in the service's words, as JSON or as a page.
async function trouble(response) {
  if (response.status === 401) {
    const why = key ? "The key is no longer known." : "The service asks for a key now.";
    return ["Unauthorized", `${why} Load the page again to enter one.`];
  }
  if ((response.headers.get("Content-Type") ?? "").includes("json")) {
    const { title, detail } = await response.json();
    return [title ?? "Error", detail ?? ""];
  }
  const told = parser.parseFromString(await response.text(), "text/html").querySelector("#problem");
  if (!told) return unreadable(response);
  return [told.querySelector("h1").textContent, told.querySelector("p").textContent];
}

function problem(title, detail) {
  const box = document.createElement("div");
  box.id = "problem";
  box.setAttribute("role", "alert");
  const strong = document.createElement("strong");
  strong.textContent = title;
  const text = document.createElement("p");
  text.textContent = detail;
  const close = document.createElement("button");
  close.type = "button";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  box.append(strong, text, close);
  return box;
}

function tell(found) {
  find("#problem")?.remove();
  before = document.activeElement;
  document.body.append(found);
}

// Take the problem away, and the focus back from its button.
function dismiss() {
  const box = find("#problem[role]");
  const within = box?.contains(document.activeElement);
  box?.remove();
  if (within) before?.focus({ preventScroll: true });
}

function show(found, { file, link, of = 1 }) {
  picture = { file, link };
  find("#problem")?.remove();
  find(".examples [aria-current]")?.removeAttribute("aria-current");
  link?.setAttribute("aria-current", "true");
  const variant = find("input[name=variant]:checked")?.value;
  find("#answers").replaceWith(document.adoptNode(found));
  if (variant) document.getElementById(`use-${variant}`)?.click();
  localize();
  if (file) draw(file);
  if (of > 1) tell(problem("One at a time", `${of} pictures came; the first is answered.`));
  find("#status").textContent = found.dataset.summary;
  reveal();
}

const LEAST_SEEN = 120; // pixels in height, of what has to be seen of the answers

// On a telephone they come below what asks for them, and a picture may be pasted anywhere.
function reveal() {
  const seen = (part) => {
    const { top, bottom } = part.getBoundingClientRect();
    return Math.min(bottom, innerHeight) - Math.max(top, 0) >= LEAST_SEEN;
  };
  if (![find(".seen"), find(".square")].some(seen)) find(".seen").scrollIntoView();
}

const SMALL = 64; // pixels; a picture that has no more is shown as the squares that it is

// The picture as the browser shows it; the pixels beside it are the service's.
async function draw(file) {
  const frame = find("#picture");
  try {
    const image = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, 512 / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    if (Math.max(image.width, image.height) <= SMALL) canvas.className = "drawn";
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", file.name);
    frame.replaceChildren(canvas);
  } catch {
    frame.textContent = file.name;
  }
}

// One of so many that came together. Its bytes are read first, and kept: the file may change, and
// what is dropped may be a folder, which is a file with nothing to read.
async function upload(file, of = 1) {
  if (!file) return;
  const form = find("#form");
  const most = Number(form.dataset.maxBytes);
  if (file.size > most - FORM_BYTES) {
    // A server may close the connection on what it will not read, and its words would be lost.
    asked += 1;
    const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
    const detail = `${file.name} has ${megabytes(file.size)}; at most ${megabytes(most)} are accepted. Scale it down: the nets see 32 × 32 pixels.`;
    settle(problem("Too large", detail));
    return;
  }
  const turn = ++asked;
  wanted = { file };
  let kept;
  try {
    kept = new File([await file.arrayBuffer()], file.name, { type: file.type });
  } catch {
    const detail = `${file.name} is a folder, or has changed since it was chosen. Choose it again.`;
    if (turn === asked) settle(problem("Cannot be read", detail));
    return;
  }
  if (turn !== asked) return;
  const body = new FormData();
  body.append(find("#file").name, kept, kept.name || "picture");
  ask(form.action, { method: "POST", body }, { file: kept, of });
}

// Addresses as this browser knows the service, which may stand behind a proxy.
function localize() {
  for (const each of document.querySelectorAll("[data-origin]")) each.textContent = location.origin;
}

const pictures = (transfer) => [...(transfer?.files ?? [])];

document.addEventListener("change", (event) => {
  const input = event.target;
  if (input.id !== "file" && input.id !== "camera") return;
  upload(input.files[0]);
  input.value = ""; // so that the same file can be chosen again
});

document.addEventListener("submit", async (event) => {
  if (event.target.id !== "unlock") return;
  event.preventDefault();
  key = find("#key").value;
  const locked = find("#locked");
  locked.textContent = "";
  let text;
  try {
    const response = await fetch(`/${location.search}`, { headers: authorized() });
    if (response.ok) text = await response.text();
    else if (response.status === 401) locked.textContent = "That key is not known.";
    else locked.textContent = (await trouble(response)).join(": ");
  } catch {
    locked.textContent = "The service does not answer.";
  }
  if (text === undefined) {
    key = null;
    return;
  }
  const page = parser.parseFromString(text, "text/html");
  document.title = page.title;
  document.body.replaceWith(document.adoptNode(page.body));
  start();
  find("#title").tabIndex = -1;
  find("#title").focus();
  document.dispatchEvent(new Event("opened"));
});

// A click that asks for a tab, a window or a file of its own; the link's address has the answers.
const elsewhere = ({ ctrlKey, metaKey, shiftKey, altKey, button }) =>
  ctrlKey || metaKey || shiftKey || altKey || button !== 0;

document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a");
  if (event.defaultPrevented) return;
  if (link?.closest(".examples, .versions") && elsewhere(event)) return;
  if (link?.closest(".examples")) {
    event.preventDefault();
    ask(link.href, {}, { link });
  } else if (link?.closest(".versions")) {
    event.preventDefault();
    again(link.dataset.version);
  } else if (key && link?.hasAttribute("data-keyed")) {
    event.preventDefault();
    await download(link.href);
  } else if (event.target.closest?.("#problem button")) {
    dismiss();
  } else if (event.target.id === "copy") {
    await copy(event.target);
  }
});

// A link cannot bring a key: fetch what it names, and hand it over.
async function download(address) {
  let response, content;
  try {
    response = await fetch(address, { headers: authorized() });
    if (!response.ok) return tell(problem(...(await trouble(response))));
    content = await response.blob();
  } catch {
    return tell(problem(...UNREACHABLE));
  }
  const save = document.createElement("a");
  save.href = URL.createObjectURL(content);
  const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
  save.download = named?.[1] ?? `${new URL(address).pathname.split("/").pop()}.json`;
  save.click();
  setTimeout(() => URL.revokeObjectURL(save.href), 60_000);
}

async function copy(button) {
  const command = find(".call input:checked + label + pre");
  try {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(command);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

document.addEventListener("paste", (event) => {
  const [file, ...more] = pictures(event.clipboardData);
  if (!file || !find("#form")) return;
  event.preventDefault();
  upload(file, 1 + more.length);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") dismiss();
});

// Back and forward, between the sections of the page, may lead to an address of other nets.
window.addEventListener("popstate", () => {
  if (!find("#form") || named() === addressed) return;
  addressed = named();
  again(addressed);
});

let inside = 0; // drags enter and leave every element on their way
const dropping = (over) => document.body.classList.toggle("dropping", over);
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!find("#form") || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    inside += { dragenter: 1, dragleave: -1 }[kind] ?? 0;
    if (kind === "drop") {
      inside = 0;
      const [file, ...more] = pictures(event.dataTransfer);
      upload(file, 1 + more.length);
    }
    dropping(inside > 0);
  });
}

function start() {
  if (!find("#form")) return;
  const status = document.createElement("p");
  status.id = "status";
  status.className = "unseen";
  status.setAttribute("role", "status");
  document.body.append(status);
  picture = wanted = { link: find(".examples [aria-current]") };
  addressed = shownAt = named();
  mark();
  localize();
}

start();
