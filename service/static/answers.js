// Takes a picture however it comes (chosen, dropped, pasted, an example), asks the service for its
// answers and puts them in place. Without this script the same form and links answer plain pages.

const parser = new DOMParser();
const find = (selector) => document.querySelector(selector);
let key = null; // an API key, where the service asks for one; it lives as long as the tab's page
let asked = 0; // which question is the latest: an answer to an older one comes too late

const authorized = () => (key ? { "X-API-Key": key } : {});

// The picture is a file of the user's, or else the example that a link names.
async function ask(address, options, { file, link }) {
  const turn = ++asked;
  const answers = find("#answers");
  answers.setAttribute("aria-busy", "true");
  let found;
  try {
    const response = await fetch(address, { ...options, headers: authorized() });
    found = await read(response);
  } catch {
    found = problem("No answer", "The service cannot be reached. Is it running?");
  }
  if (turn !== asked) return;
  answers.removeAttribute("aria-busy");
  show(found, { file, link });
}

// The answers of a page, or its problem; problems that come as JSON are told in the same words.
async function read(response) {
  if ((response.headers.get("Content-Type") ?? "").includes("json")) {
    const { title, detail } = await response.json();
    return problem(title ?? "Error", detail ?? "");
  }
  const page = parser.parseFromString(await response.text(), "text/html");
  const told = page.querySelector("#problem");
  if (told) return problem(told.querySelector("h1").textContent, told.querySelector("p").textContent);
  return page.querySelector("#answers") ?? problem(`Error ${response.status}`, "The answer cannot be read.");
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

function show(found, { file, link } = {}) {
  find("#problem")?.remove();
  if (found.id === "problem") {
    document.body.append(found);
    return;
  }
  find(".examples [aria-current]")?.removeAttribute("aria-current");
  link?.setAttribute("aria-current", "true");
  const variant = find("input[name=variant]:checked")?.value;
  find("#answers").replaceWith(document.adoptNode(found));
  if (variant) document.getElementById(`use-${variant}`)?.click();
  localize();
  if (file) draw(file);
  find("#status").textContent = found.dataset.summary;
}

// The picture as the browser shows it; the pixels beside it are the service's.
async function draw(file) {
  const frame = find("#picture");
  try {
    const image = await createImageBitmap(file);
    const canvas = document.createElement("canvas");
    const scale = Math.min(1, 512 / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", file.name);
    frame.replaceChildren(canvas);
  } catch {
    frame.textContent = file.name;
  }
}

function upload(file) {
  if (!file) return;
  const form = find("#form");
  const most = Number(form.dataset.maxBytes);
  if (file.size > most) {
    // A server may close the connection on what it will not read, and its words would be lost.
    asked += 1;
    show(problem("Too large", `${file.name} has ${file.size} bytes, more than the ${most} allowed`));
    return;
  }
  const body = new FormData();
  body.append(find("#file").name, file, file.name || "picture");
  ask(form.action, { method: "POST", body }, { file });
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
  find("#locked").textContent = "";
  const response = await fetch("/", { headers: authorized() }).catch(() => null);
  if (!response?.ok) {
    key = null;
    find("#locked").textContent = response?.status === 401 ? "That key is not known." : "The service does not answer.";
    return;
  }
  const page = parser.parseFromString(await response.text(), "text/html");
  document.body.replaceWith(document.adoptNode(page.body));
  start();
  find("#title").tabIndex = -1;
  find("#title").focus();
  document.dispatchEvent(new Event("opened"));
});

document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a");
  if (link?.closest(".examples")) {
    event.preventDefault();
    ask(link.href, {}, { link });
  } else if (key && link?.hasAttribute("data-keyed")) {
    // A link cannot bring a key: fetch what it names, and hand it over.
    event.preventDefault();
    const response = await fetch(link.href, { headers: authorized() });
    const save = document.createElement("a");
    save.href = URL.createObjectURL(await response.blob());
    const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
    save.download = named?.[1] ?? `${new URL(link.href).pathname.split("/").pop()}.json`;
    save.click();
    setTimeout(() => URL.revokeObjectURL(save.href), 60_000);
  } else if (event.target.closest?.("#problem button")) {
    find("#problem").remove();
  } else if (event.target.id === "copy") {
    await copy(event.target);
  }
});

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
  const [file] = pictures(event.clipboardData);
  if (!file || !find("#form")) return;
  event.preventDefault();
  upload(file);
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") find("#problem[role]")?.remove();
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
      upload(pictures(event.dataTransfer)[0]);
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
  localize();
}

start();
