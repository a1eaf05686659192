"use strict";

// The conversation lives in this tab's sessionStorage. An answer that is being written is only an id there: after a
// reload its text is read again from its first event on. The id stands in the address as well, so that another tab that
// opens the address reads along.

const STORED = "conversation";
const AGAIN_MS = 2000;

const list = document.querySelector("#turns");
const form = document.querySelector("#form");
const prompt = document.querySelector("#prompt");
const status = document.querySelector("#status");
const sendButton = document.querySelector("#send");
const stopButton = document.querySelector("#stop");

let turns = []; // {role, content, task, state, note}; state: "running", "done", "stopped" or "failed"
let source = null;

// What is shown.

function show(turn) {
  const item = document.createElement("li");
  item.className = turn.role;
  turn.item = item;
  for (const part of ["who", "text", "note"]) {
    turn[`${part}Element`] = item.appendChild(document.createElement("p"));
    turn[`${part}Element`].className = part;
  }
  turn.whoElement.textContent = turn.role === "user" ? "You" : "Model";
  turn.textElement.textContent = turn.content; // as text, whatever the model wrote
  note(turn, turn.note);
  list.append(item);
  scrollDown(true);
}

function note(turn, words) {
  turn.note = words;
  turn.noteElement.textContent = words;
  turn.item.classList.toggle("failed", turn.state === "failed");
}

function scrollDown(always) {
  const page = document.documentElement;
  if (always || page.scrollHeight - page.scrollTop - page.clientHeight < 120) page.scrollTop = page.scrollHeight;
}

function showState(words) {
  const running = turns.find((turn) => turn.state === "running");
  status.textContent = words;
  list.setAttribute("aria-busy", String(Boolean(running))); // a text is read out once it is whole, not word by word
  sendButton.hidden = Boolean(running);
  stopButton.hidden = !running?.task;
}

// What is kept.

function save() {
  const kept = turns.map(({ role, content, task, state, note }) => ({ role, content, task, state, note }));
  try {
    sessionStorage.setItem(STORED, JSON.stringify(kept));
  } catch {
    // Storage is full, or switched off: the conversation ends with this page.
  }
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED)) ?? [];
  } catch {
    return [];
  }
}

// An answer, from its first event to its last.

function follow(turn) {
  const address = `streams/${encodeURIComponent(turn.task)}`;
  let isWhole = true;
  let standing = ""; // what is to be read until something new comes, also while the connection is made anew
  const say = (words) => note(turn, (standing = words));
  clear(turn);
  showState("Waiting for a worker.");
  source = new EventSource(address);

  const on = (kind, act) => source.addEventListener(kind, (event) => act(event.data && JSON.parse(event.data)));
  on("open", () => note(turn, standing));
  on("start", () => {
    clear(turn);
    say("");
    showState("The model is writing.");
  });
  on("chunk", ({ text }) => {
    turn.textElement.append(text);
    scrollDown(false);
  });
  on("heartbeat", () => showState("The worker lives, and the model is silent."));
  on("reset", () => {
    clear(turn);
    isWhole = true;
    say("The model was interrupted, and has begun anew.");
    showState("The model is writing.");
  });
  on("gap", () => {
    isWhole = false;
    say("A part of the text is missing here.");
  });
  on("lost", () => say("No worker is running. The answer goes on when one starts."));
  on("done", ({ cached }) => (isWhole ? end(turn, "done", cached ? "Remembered from before." : "") : fetchWhole(turn)));
  on("cancelled", () => end(turn, "stopped", "Stopped."));
  on("error", (said) => {
    if (said && said.seq !== undefined) end(turn, "failed", said.message); // the last event: there will be no answer
    else if (said) note(turn, said.message); // the server could not read on: EventSource comes back
    else if (source.readyState === EventSource.CLOSED) askWhy(turn, address);
    else note(turn, standing || "The connection is lost: trying again.");
  });
}

function clear(turn) {
  turn.textElement.replaceChildren();
  note(turn, "");
}

function end(turn, state, words) {
  source?.close();
  source = null;
  turn.state = state;
  turn.content = turn.textElement.textContent;
  note(turn, words);
  showState({ done: "The answer is there.", stopped: "Stopped.", failed: "There is no answer." }[state]);
  save();
}

// EventSource does not say why it was turned away: ask once more.
async function askWhy(turn, address) {
  source.close();
  try {
    const leaving = new AbortController();
    const answer = await fetch(address, { signal: leaving.signal });
    if (answer.status === 404) {
      const { error } = await answer.json();
      if (error.has_result) await fetchWhole(turn);
      else end(turn, "failed", "This answer is not kept any more.");
      return;
    }
    if (answer.status === 400) return end(turn, "failed", (await answer.json()).error.message);
    leaving.abort();
  } catch {
    // The server is away, too: it is asked again below.
  }
  note(turn, "The server does not answer: trying again.");
  setTimeout(() => turn.state === "running" && follow(turn), AGAIN_MS);
}

// The stream is gone, or has a hole, and the task has ended: its result has all of the text.
async function fetchWhole(turn) {
  try {
    const answer = await fetch(`answers/${encodeURIComponent(turn.task)}`);
    const said = await answer.json();
    if (!answer.ok) return end(turn, "failed", said.error.message);
    turn.textElement.textContent = said.text;
    end(turn, "done", "");
  } catch {
    end(turn, "failed", "The server does not answer. Reload the page to try again.");
  }
}

// What people do.

async function ask(content) {
  turns.push({ role: "user", content, state: "done", note: "" });
  show(turns.at(-1));
  const messages = turns.filter((turn) => turn.content).map(({ role, content }) => ({ role, content }));
  const turn = { role: "assistant", content: "", task: null, state: "running", note: "" };
  turns.push(turn);
  show(turn);
  showState("Sending.");
  save();
  try {
    const answer = await fetch("answers", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ messages }),
    });
    const said = await answer.json();
    if (!answer.ok) return end(turn, "failed", said.error?.message ?? "The server does not take this message.");
    turn.task = said.id;
  } catch {
    return end(turn, "failed", "The server does not answer. Your message was not sent.");
  }
  history.replaceState(null, "", `#${encodeURIComponent(turn.task)}`);
  save();
  follow(turn);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const content = prompt.value.trim();
  if (!content || turns.some((turn) => turn.state === "running")) return;
  prompt.value = "";
  ask(content);
});

prompt.addEventListener("keydown", (event) => {
  // While a Japanese or Chinese word is composed, Enter belongs to the keyboard.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

stopButton.addEventListener("click", async () => {
  const turn = turns.find((turn) => turn.state === "running");
  try {
    const answer = await fetch(`answers/${encodeURIComponent(turn.task)}`, { method: "DELETE" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    showState("Stopping."); // the stream says when it has stopped
  } catch {
    note(turn, "The server does not answer: it was not stopped.");
  }
});

document.querySelector("#anew").addEventListener("click", () => {
  source?.close(); // leaving is not stopping: what runs is answered, and remembered
  sessionStorage.removeItem(STORED);
  location.replace(location.pathname);
});

// A reload, or another tab.

turns = load();
const elsewhere = decodeURIComponent(location.hash.slice(1));
if (!turns.length && elsewhere) {
  turns = [{ role: "assistant", content: "", task: elsewhere, state: "running", note: "" }];
}
for (const turn of turns.filter((turn) => turn.state === "running" && !turn.task)) {
  turn.state = "failed";
  turn.note = "The page was left before the server had said that it has your message.";
}
turns.forEach(show);
showState("");
const unfinished = turns.find((turn) => turn.state === "running");
if (unfinished) follow(unfinished);
prompt.focus();
