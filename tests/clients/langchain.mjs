// LangChain's ChatOpenAI, configured as the specification does.
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

import { run, thrownBy } from "./harness.mjs";

const City = z.object({ name: z.string(), people: z.number() });

await run(async (job) => {
  const settings = (apiKey) => ({
    model: "gpt-3.5-turbo",
    temperature: 0.7,
    maxTokens: 1000,
    configuration: { baseURL: job.baseURL, apiKey },
    modelKwargs: { additionalParam: "value" },
    maxRetries: 0,
  });
  const model = new ChatOpenAI({ ...settings(job.key), streaming: false });
  const own = new ChatOpenAI({ ...settings(job.key), apiKey: job.key });
  const zai = new ChatOpenAI({ ...settings(job.key), model: "z-ai/glm-4-flash" });
  return {
    invoke: await invoke(model),
    ownKey: await invoke(own),
    zai: await invoke(zai),
    stream: await stream(own),
    // LangChain asks gpt-3.5-turbo by a tool, gpt-4o by a JSON schema.
    structured: await structured(own),
    bySchema: await structured(new ChatOpenAI({ ...settings(job.key), model: "gpt-4o" })),
    tools: await tools(own),
    unknownKey: await refused(settings("sk-unknown")),
    brokenStream: await broken(new ChatOpenAI({ ...settings(job.key), model: "cut" })),
  };
});

async function invoke(model) {
  const message = await model.invoke("Hello");
  return { content: message.content, usage: message.usage_metadata };
}

async function stream(model) {
  const words = [];
  let usage;
  for await (const chunk of await model.stream("Hello")) {
    if (chunk.content) words.push(chunk.content);
    usage = chunk.usage_metadata ?? usage;
  }
  return { words, total: usage.total_tokens };
}

async function structured(model) {
  return await model.withStructuredOutput(City, { name: "City" }).invoke("Which city?");
}

async function tools(model) {
  const schema = z.object({ city: z.string() });
  const weather = tool(() => "rain", { name: "get_weather", description: "The weather in a city", schema });
  const bound = model.bindTools([weather]);
  const asked = await bound.invoke("How is the weather?");
  const result = await weather.invoke(asked.tool_calls[0]);
  const final = await bound.invoke([["user", "How is the weather?"], asked, result]);
  return { calls: asked.tool_calls.map(({ name, args }) => ({ name, args })), final: final.content };
}

async function refused(settings) {
  const error = await thrownBy(() => new ChatOpenAI(settings).invoke("Hello"));
  return { status: error.status, code: error.code, gateway_code: error.error.gateway_code };
}

async function broken(model) {
  const words = [];
  const error = await thrownBy(async () => {
    for await (const chunk of await model.stream("Hello")) if (chunk.content) words.push(chunk.content);
  });
  return { words, message: error.message };
}
