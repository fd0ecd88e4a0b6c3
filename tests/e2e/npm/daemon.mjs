// What the tests of all clients share: where the daemon is, which models it has, and what is asked of them.
import assert from "node:assert/strict";

export const url = process.env.DAEMON_URL;
export const model = process.env.DAEMON_MODEL;
export const hello = [{ role: "user", content: "Say hello." }];
export const rain = [{ role: "user", content: "Does it rain in Oslo?" }];
/** More than the context. */
export const long = [{ role: "user", content: "word ".repeat(3000) }];
export const city = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};

/** Every answer that runs has ended: a slot is not busy on behalf of somebody who left. */
export async function slotsAreFree() {
  for (let asked = 0; asked < 2000; asked++) {
    const status = await (await fetch(`${url}/swapd/status`)).json();
    if (status.models.every((each) => each.slots_busy === 0)) return;
  }
  assert.fail("a slot is still busy");
}
