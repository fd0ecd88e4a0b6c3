// The page of GET /ui/ in a document of its own: it shows what is there, and its buttons do what they say.
import assert from "node:assert/strict";
import test from "node:test";

import { JSDOM } from "jsdom";

import { model, url } from "./daemon.mjs";

/** The page, running, its requests going to the daemon. */
async function open() {
  const page = await JSDOM.fromURL(`${url}/ui/`, {
    runScripts: "dangerously",
    resources: "usable",
    pretendToBeVisual: true,
    beforeParse(window) {
      window.fetch = (path, options) => fetch(new URL(path, `${url}/ui/`), options);
    },
  });
  return page.window;
}

/** Until the page shows what is looked for; it looks at the daemon by itself. */
function until(window, found) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(window.document.body.textContent)), 30_000);
    const watcher = new window.MutationObserver(look);
    function look() {
      const hit = found(window.document);
      if (!hit) return;
      watcher.disconnect();
      clearTimeout(late);
      resolve(hit);
    }
    watcher.observe(window.document, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
  });
}

function row(document, table, name) {
  return [...document.querySelectorAll(`#${table} tbody tr`)].find((line) => line.cells[0].textContent === name);
}

function press(line, label) {
  [...line.querySelectorAll("button")].find((button) => button.textContent.trim() === label).click();
}

test("a model is loaded, pinned and unloaded by its buttons", async () => {
  const window = await open();
  try {
    press(await until(window, (document) => row(document, "catalog", model)), "load");
    const loaded = (document) => {
      const line = row(document, "models", model);
      return line?.cells[1].textContent === "ready" ? line : null;
    };
    press(await until(window, loaded), "pin");
    const pinned = await until(window, (document) => {
      const line = row(document, "models", model);
      return line?.cells[5].textContent === "pinned" ? line : null;
    });
    press(pinned, "unpin");
    const free = await until(window, (document) => {
      const line = loaded(document);
      return line && line.cells[5].textContent !== "pinned" ? line : null;
    });
    press(free, "unload");
    await until(window, (document) => !row(document, "models", model));
    assert.match(window.document.querySelector("#devices").textContent, /free of/);
    assert.equal(window.document.querySelector("#trouble").hidden, true);
  } finally {
    window.close();
  }
});
