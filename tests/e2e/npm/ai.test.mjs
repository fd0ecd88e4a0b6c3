// Vercel's AI SDK, on its provider for what speaks as OpenAI does.
import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, jsonSchema, streamText, tool } from "ai";

import { city, hello, model, rain, slotsAreFree, url } from "./daemon.mjs";

const provider = createOpenAICompatible({ name: "swapd", baseURL: `${url}/v1`, includeUsage: true });
const about = { model: provider(model), temperature: 0, maxOutputTokens: 16, maxRetries: 0 };

test("a stream says what a whole answer does", async () => {
  const whole = await generateText({ ...about, messages: hello });
  const streamed = streamText({ ...about, messages: hello });
  let text = "";
  for await (const delta of streamed.textStream) text += delta;
  assert.equal(text, whole.text);
  assert.notEqual(text, "");
  assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
  assert.ok(whole.usage.outputTokens > 0);
});

test("a forced tool is called, and runs", async () => {
  const weather = tool({ description: "Tells it.", inputSchema: jsonSchema(city), execute: async () => "It rains." });
  const asked = { ...about, maxOutputTokens: 60, messages: rain, tools: { weather }, toolChoice: "required" };
  const streamed = streamText(asked);
  await streamed.consumeStream();
  for (const answer of [await generateText(asked), { toolResults: await streamed.toolResults }]) {
    assert.ok(answer.toolResults.length > 0);
    assert.equal(answer.toolResults[0].output, "It rains.");
    assert.deepEqual(Object.keys(answer.toolResults[0].input), ["city"]);
  }
});

test("a stream that is aborted frees its slot", async () => {
  const leaving = new AbortController();
  const streamed = streamText({ ...about, messages: hello, maxOutputTokens: 1500, abortSignal: leaving.signal });
  for await (const delta of streamed.textStream) if (delta) leaving.abort();
  await slotsAreFree();
});

test("texts are embedded", async () => {
  const found = await embedMany({ model: provider.embeddingModel(model), values: ["a", "b"], maxRetries: 0 });
  assert.equal(found.embeddings.length, 2);
});

test("errors are told with their status", async () => {
  await assert.rejects(
    generateText({ ...about, model: provider("nope"), messages: hello }),
    (error) => APICallError.isInstance(error) && error.statusCode === 404 && /not found/.test(error.message),
  );
});
