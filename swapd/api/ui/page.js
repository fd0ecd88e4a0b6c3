// The page of GET /ui/: looks at the daemon every second, and asks it for what a button says. Names are text, never
// markup. The key, where the daemon wants one, stays in this tab.
"use strict";

const EVERY_MS = 1000;
const element = (id) => document.getElementById(id);

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024;
  return `${count >= 100 || unit === 0 ? Math.round(count) : count.toPrecision(3)} ${units[unit]}`;
}

function span(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function until(model) {
  if (model.state === "draining" || model.state === "unloading") return "stopping";
  if (model.pinned) return "pinned";
  if (model.expires_at === null) return model.state === "loading" ? "" : "for ever";
  return span((Date.parse(model.expires_at) - Date.now()) / 1000);
}

async function ask(method, path) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { method, headers });
  const said = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(said.error.message), { status: answer.status });
  return said;
}

function trouble(error) {
  element("trouble").hidden = error === null;
  element("trouble").textContent = error === null ? "" : error.message;
  element("key").hidden = error === null || error.status !== 401;
}

/** A button that asks once, and tells what went wrong. */
function button(label, method, path) {
  const made = document.createElement("button");
  made.textContent = label;
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await ask(method, path);
      await look();
    } catch (error) {
      trouble(error);
    } finally {
      made.disabled = false;
    }
  });
  return made;
}

/** Rows of texts and elements; a table that is as it was is left alone, or nobody could press a button in it. */
function fill(id, rows, nothing) {
  const body = element(id).tBodies[0];
  const news = JSON.stringify(rows.map((row) => row.map((cell) => (cell instanceof Array ? cell.map(String) : cell))));
  if (body.dataset.shown === news) return;
  body.dataset.shown = news;
  body.replaceChildren(
    ...(rows.length ? rows : [[nothing]]).map((row) => {
      const line = document.createElement("tr");
      for (const cell of row) {
        const place = document.createElement("td");
        if (cell instanceof Array) for (const [label, method, path] of cell) place.append(button(label, method, path), " ");
        else place.textContent = cell;
        line.append(place);
      }
      return line;
    }),
  );
}

function device(each) {
  const made = document.createElement("div");
  const bar = document.createElement("div");
  bar.className = "bar";
  for (const [kind, held] of [["ours", each.ours], ["foreign", each.foreign], ["reserve", Math.min(each.reserve, each.free)]]) {
    const part = document.createElement("i");
    part.className = kind;
    part.style.width = `${(100 * held) / Math.max(1, each.total)}%`;
    bar.append(part);
  }
  const told = `${each.id} ${each.name}: ${bytes(each.ours)} ours, ${bytes(each.foreign)} others', `;
  made.append(`${told}${bytes(each.free)} free of ${bytes(each.total)}`, bar);
  return made;
}

const route = (name, verb) => `/swapd/models/${encodeURIComponent(name)}/${verb}`;
const held = (model) => Object.values(Object.keys(model.measured).length ? model.measured : model.predicted);

async function look() {
  try {
    const [status, catalog] = await Promise.all([ask("GET", "/swapd/status"), ask("GET", "/swapd/models")]);
    element("about").textContent = `${status.version}, up for ${span(status.uptime_s)}`;
    element("devices").replaceChildren(...status.devices.map(device));
    fill(
      "models",
      status.models.map((each) => [
        each.name,
        each.state === "loading" ? `loading ${Math.round(100 * each.progress)}%` : each.state,
        each.placement,
        bytes(held(each).reduce((sum, size) => sum + size, 0)),
        `${each.slots_busy}/${each.slots}`,
        until(each),
        [
          each.pinned ? ["unpin", "POST", route(each.name, "unpin")] : ["pin", "POST", route(each.name, "pin")],
          ["unload", "POST", route(each.name, "unload?wait=false")],
        ],
      ]),
      "none",
    );
    fill(
      "queue",
      status.queue.map((each) => [
        each.position,
        each.model,
        span((Date.now() - Date.parse(each.since)) / 1000),
        each.reason,
      ]),
      "nobody",
    );
    fill(
      "catalog",
      catalog.models.map((each) =>
        each.usable
          ? [each.name, bytes(each.size), each.quantization, each.context, [["load", "POST", route(each.name, "load?wait=false")]]]
          : [each.name, bytes(each.size), "", "", each.reason],
      ),
      "nothing: [catalog] dirs names the folders to look in",
    );
    trouble(null);
  } catch (error) {
    trouble(error);
  }
}

element("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", new FormData(event.target).get("key"));
  look();
});

async function watch() {
  await look();
  setTimeout(watch, EVERY_MS);
}
watch();
