// Ollama's own client for JavaScript.
import assert from "node:assert/strict";
import test from "node:test";

import { Ollama } from "ollama";

import { city, hello, long, model, slotsAreFree, url } from "./daemon.mjs";

const client = new Ollama({ host: url });
const options = { temperature: 0, num_predict: 16 };

test("a stream says what a whole answer does", async () => {
  const whole = await client.chat({ model, messages: hello, options });
  let text = "";
  let last;
  for await (const part of await client.chat({ model, messages: hello, options, stream: true })) {
    text += part.message.content;
    last = part;
  }
  assert.equal(text, whole.message.content);
  assert.notEqual(text, "");
  assert.ok(last.done && last.eval_count > 0 && last.total_duration > last.eval_duration);
  const generated = await client.generate({ model, prompt: "Say hello.", options });
  assert.equal(generated.response, text);
});

test("tools are taken, and their calls and results given back", async () => {
  const tools = [{ type: "function", function: { name: "weather", description: "Tells it.", parameters: city } }];
  const call = { function: { name: "weather", arguments: { city: "Oslo" } } };
  const messages = [
    ...hello,
    { role: "assistant", content: "", tool_calls: [call] },
    { role: "tool", tool_name: "weather", content: "It rains." },
  ];
  const answer = await client.chat({ model, messages, tools, options });
  assert.ok(answer.message.content || answer.message.tool_calls);
});

test("a format is followed", async () => {
  const answer = await client.chat({ model, messages: hello, format: city, options: { ...options, num_predict: 60 } });
  assert.deepEqual(Object.keys(JSON.parse(answer.message.content)), ["city"]);
});

test("a stream that is aborted frees its slot", async () => {
  const stream = await client.chat({ model, messages: hello, options: { num_predict: 1500 }, stream: true });
  await assert.rejects(async () => {
    for await (const part of stream) if (part.message.content) stream.abort();
  }, /abort/i);
  await slotsAreFree();
});

test("models are listed, shown, loaded and let go", async () => {
  const listed = (await client.list()).models.find((each) => each.model === model);
  assert.equal(listed.details.format, "gguf");
  const shown = await client.show({ model });
  assert.ok(shown.capabilities.includes("completion"));
  assert.ok(shown.model_info[`${shown.model_info["general.architecture"]}.context_length`] > 0);
  assert.equal((await client.generate({ model, prompt: "", keep_alive: "5m" })).done_reason, "load");
  assert.ok((await client.ps()).models.some((each) => each.model === model));
  assert.match((await client.version()).version, /^\d+\.\d+\.\d+/);
});

test("embeddings are made", async () => {
  const found = await client.embed({ model, input: ["a", "b"] });
  assert.equal(found.embeddings.length, 2);
});

test("errors are its own", async () => {
  for (const [status, call] of [
    [404, () => client.show({ model: "nope" })],
    [404, () => client.chat({ model: "nope", messages: hello })],
    [400, () => client.chat({ model, messages: long })],
    [403, () => client.delete({ model })],
    [403, () => client.create({ model: "new", from: model })],
    [403, () => client.copy({ source: model, destination: "new" })],
  ]) {
    await assert.rejects(call, (error) => error.name === "ResponseError" && error.status_code === status);
  }
});
