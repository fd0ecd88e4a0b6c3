// Anthropic's own client for JavaScript.
import assert from "node:assert/strict";
import test from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import { city, hello, long, model, rain, slotsAreFree, url } from "./daemon.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const about = { model, max_tokens: 16, temperature: 0 };

test("a stream says what a whole answer does", async () => {
  const whole = await client.messages.create({ ...about, messages: hello });
  const stream = client.messages.stream({ ...about, messages: hello });
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const message = await stream.finalMessage();
  assert.equal(text, whole.content[0].text);
  assert.notEqual(text, "");
  assert.deepEqual(message.content, whole.content);
  assert.equal(message.usage.output_tokens, whole.usage.output_tokens);
});

test("a forced tool is called and its result is read", async () => {
  const tools = [{ name: "weather", description: "Tells the weather.", input_schema: city }];
  const asked = { ...about, max_tokens: 60, tools };
  const tool_choice = { type: "tool", name: "weather", disable_parallel_tool_use: true };
  const message = await client.messages.stream({ ...asked, messages: rain, tool_choice }).finalMessage();
  const [call] = message.content;
  assert.equal(message.stop_reason, "tool_use");
  assert.equal(call.type, "tool_use");
  assert.deepEqual(Object.keys(call.input), ["city"]);
  const result = [{ type: "tool_result", tool_use_id: call.id, content: "It rains." }];
  const messages = [...rain, { role: "assistant", content: message.content }, { role: "user", content: result }];
  assert.ok((await client.messages.create({ ...asked, messages })).content.length);
});

test("tokens are counted", async () => {
  const counted = await client.messages.countTokens({ model, messages: hello });
  const { usage } = await client.messages.create({ ...about, max_tokens: 1, messages: hello });
  assert.equal(counted.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens ?? 0));
});

test("a stream that is aborted frees its slot", async () => {
  const stream = client.messages.stream({ ...about, max_tokens: 1500, messages: hello });
  stream.on("text", () => stream.abort());
  await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
  await slotsAreFree();
});

test("errors are its own", async () => {
  await assert.rejects(client.messages.create({ ...about, model: "nope", messages: hello }), Anthropic.NotFoundError);
  await assert.rejects(
    client.messages.create({ ...about, messages: long }),
    (error) => error instanceof Anthropic.BadRequestError && /prompt is too long/.test(error.message),
  );
});

test("models are listed", async () => {
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  assert.ok(names.includes(model));
});
