// OpenAI's own client for JavaScript.
import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";

import { city, hello, long, model, rain, slotsAreFree, url } from "./daemon.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const cold = { model, temperature: 0 };

test("a stream says what a whole answer does", async () => {
  const about = { ...cold, messages: hello, max_tokens: 16 };
  const whole = await client.chat.completions.create(about);
  const stream = await client.chat.completions.create({
    ...about,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.notEqual(text, "");
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a forced tool is called, streamed and whole, and its result is read", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: city } }];
  const about = { ...cold, messages: rain, tools, max_tokens: 60, parallel_tool_calls: false };
  const tool_choice = { type: "function", function: { name: "weather" } };
  const whole = await client.chat.completions.create({ ...about, tool_choice });
  const [call] = whole.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  const streamed = await client.chat.completions.stream({ ...about, tool_choice }).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
  const messages = [...rain, whole.choices[0].message, { role: "tool", tool_call_id: call.id, content: "It rains." }];
  const answer = await client.chat.completions.create({ ...about, messages, tool_choice: "none" });
  assert.ok(answer.choices[0].message.content);
});

test("its tool runner calls a function and goes on", async () => {
  const asked = [];
  const runner = client.chat.completions.runTools({
    ...cold,
    messages: rain,
    max_tokens: 60,
    parallel_tool_calls: false,
    tool_choice: { type: "function", function: { name: "weather" } },
    tools: [
      {
        type: "function",
        function: { name: "weather", parameters: city, parse: JSON.parse, function: (given) => void asked.push(given) },
      },
    ],
  });
  await runner.done();
  assert.deepEqual(asked.map(Object.keys), [["city"]]);
});

test("an answer follows a schema", async () => {
  const answer = await client.chat.completions.parse({
    ...cold,
    messages: rain,
    max_tokens: 60,
    response_format: { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } },
  });
  assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)), ["city"]);
});

test("responses are created and streamed", async () => {
  const about = { ...cold, input: "Say hello.", max_output_tokens: 32 };
  const whole = await client.responses.create(about);
  assert.ok(whole.output_text);
  const stream = client.responses.stream(about);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  assert.equal(text, whole.output_text);
});

test("a stream that is left frees its slot", async () => {
  const stream = await client.chat.completions.create({ ...cold, messages: hello, max_tokens: 1500, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) break;
  }
  await slotsAreFree();
});

test("an answer that is aborted frees its slot", async () => {
  const leaving = new AbortController();
  const about = { ...cold, messages: hello, max_tokens: 1500, logit_bias: {}, ignore_eos: true };
  const asked = client.chat.completions.create(about, { signal: leaving.signal });
  setImmediate(() => leaving.abort());
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await slotsAreFree();
});

test("embeddings are numbers, though it asks for base64", async () => {
  const found = await client.embeddings.create({ model, input: ["a", "b"] });
  assert.equal(found.data.length, 2);
  assert.ok(Math.abs(found.data[0].embedding.reduce((sum, x) => sum + x * x, 0) - 1) < 1e-3);
});

test("errors are its own", async () => {
  const missing = client.chat.completions.create({ ...cold, model: "nope", messages: hello });
  await assert.rejects(missing, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  const refused = client.chat.completions.create({ ...cold, messages: long });
  await assert.rejects(
    refused,
    (error) => error instanceof OpenAI.BadRequestError && error.code === "context_length_exceeded" && !!error.requestID,
  );
});

test("models are listed", async () => {
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  assert.ok(names.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
});
