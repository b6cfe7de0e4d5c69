// OpenAI's Node client, unchanged.
import OpenAI from "openai";

import { run, thrownBy } from "./harness.mjs";

const messages = [{ role: "user", content: "Hello" }];

await run(async (job) => {
  const client = new OpenAI({ baseURL: job.baseURL, apiKey: job.key, maxRetries: 0 });
  return {
    json: await json(client),
    stream: await stream(client),
    tools: await tools(client, job.tool),
    streamedTools: await streamedTools(client, job.tool),
    withResponse: await withResponse(client),
    models: await models(client, job.listed),
    failures: await failures(job),
    tooLarge: await tooLarge(client),
    brokenStream: await brokenStream(client),
  };
});

async function json(client) {
  const answer = await client.chat.completions.create({ model: "gpt", messages });
  const requestId = answer._request_id;
  return { content: answer.choices[0].message.content, total: answer.usage.total_tokens, requestId };
}

async function stream(client) {
  const stream_options = { include_usage: true };
  const chunks = await client.chat.completions.create({ model: "gpt", messages, stream: true, stream_options });
  const words = [];
  for await (const chunk of chunks) words.push(chunk.choices[0].delta.content ?? null);
  return words;
}

async function tools(client, tool) {
  const ask = { model: "calling", tools: [tool] };
  const asked = await client.chat.completions.create({ ...ask, messages });
  const message = asked.choices[0].message;
  const [call] = message.tool_calls;
  const result = { role: "tool", tool_call_id: call.id, content: "rain" };
  const final = await client.chat.completions.create({ ...ask, messages: [...messages, message, result] });
  return {
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments),
    final: final.choices[0].message.content,
  };
}

async function streamedTools(client, tool) {
  const ask = { model: "calling-streamed", messages, tools: [tool] };
  const [call] = (await client.chat.completions.stream(ask).finalMessage()).tool_calls;
  return { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
}

async function withResponse(client) {
  const headers = { "x-request-id": "mine-1" };
  const ask = client.chat.completions.create({ model: "gpt", messages }, { headers });
  const { data, response, request_id } = await ask.withResponse();
  return {
    content: data.choices[0].message.content,
    provider: response.headers.get("x-proxy-provider"),
    group: response.headers.get("x-litellm-model-group"),
    requestId: request_id,
  };
}

async function models(client, listed) {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  const one = await client.models.retrieve(listed);
  const missing = await thrownBy(() => client.models.retrieve("none-such"));
  return { ids, one: one.id, missing: described(missing) };
}

async function failures(job) {
  const found = {};
  for (const failure of job.failures) {
    const client = new OpenAI({ baseURL: job.baseURL, apiKey: failure.key, maxRetries: 0 });
    const ask = { model: failure.model, messages: failure.messages ? messages : [] };
    for (const stream of [false, true]) {
      const error = await thrownBy(() => client.chat.completions.create({ ...ask, stream }));
      found[`${failure.name} ${stream ? "stream" : "json"}`] = described(error);
    }
  }
  return found;
}

async function tooLarge(client) {
  const content = "x".repeat(21 * 1024 * 1024);
  const ask = { model: "gpt", messages: [{ role: "user", content }] };
  return described(await thrownBy(() => client.chat.completions.create(ask)));
}

async function brokenStream(client) {
  const words = [];
  const error = await thrownBy(async () => {
    const chunks = await client.chat.completions.create({ model: "cut", messages, stream: true });
    for await (const chunk of chunks) words.push(chunk.choices[0].delta.content);
  });
  return { words, error: described(error), isApiError: error instanceof OpenAI.APIError };
}

function described(error) {
  return {
    error: error.constructor.name,
    status: error.status ?? null,
    code: error.code,
    gateway_code: error.error?.gateway_code,
    message: error.error?.message,
    sameRequestId: error.requestID === error.error?.request_id,
    retry_after: error.headers?.get("retry-after") ?? null,
  };
}
