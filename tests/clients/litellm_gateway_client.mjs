// The specification's LiteLLMGatewayClient, its types left out, and what an app does with it.
import { run, thrownBy } from "./harness.mjs";

class LiteLLMError extends Error {
  constructor(message, response) {
    super(message);
    this.response = response;
  }
}

class LiteLLMGatewayClient {
  constructor(proxyBaseUrl, proxyApiKey, zaiApiKey) {
    this.proxyBaseUrl = proxyBaseUrl;
    this.apiKey = proxyApiKey;
    this.zaiApiKey = zaiApiKey;
  }

  async chatCompletion(request) {
    const response = await fetch(`${this.proxyBaseUrl}/v1/chat/completions`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Authorization: `Bearer ${this.apiKey}`,
        // LiteLLM proxy adds x-litellm-api-key internally for Z.ai
        "x-litellm-api-key": this.zaiApiKey,
        "x-litellm-route": "z-ai", // Custom header for routing
        "x-litellm-model": "glm-4-flash", // Force specific model
      },
      body: JSON.stringify(request),
    });

    if (!response.ok) {
      throw new LiteLLMError(`Request failed: ${response.status}`, response);
    }

    return await response.json();
  }

  async streamingChatCompletion(request) {
    const response = await fetch(`${this.proxyBaseUrl}/v1/chat/completions`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Authorization: `Bearer ${this.apiKey}`,
        "x-litellm-api-key": this.zaiApiKey,
        Accept: "text/event-stream",
        "Cache-Control": "no-cache",
        Connection: "keep-alive",
      },
      body: JSON.stringify({ ...request, stream: true }),
    });

    return response.body;
  }
}

await run(async (job) => {
  const client = new LiteLLMGatewayClient(job.baseURL, job.key, job.zaiKey);
  const request = { model: "gpt-3.5-turbo", messages: [{ role: "user", content: "Hello" }] };
  const answer = await client.chatCompletion(request);
  const body = await client.streamingChatCompletion({ ...request, model: "z-ai/glm-4-flash" });
  const stranger = new LiteLLMGatewayClient(job.baseURL, "sk-unknown", job.zaiKey);
  const error = await thrownBy(() => stranger.chatCompletion(request));
  return {
    content: answer.choices[0].message.content,
    stream: await new Response(body).text(),
    error: { message: error.message, ...(await error.response.json()).error },
  };
});
