// The specification's FrontendGatewayClient, its types left out, and what a page does with it.
import { run, thrownBy } from "./harness.mjs";

class GatewayError extends Error {}

class FrontendGatewayClient {
  constructor(proxyBaseUrl = "http://localhost:3000/api/llm", apiKey) {
    this.proxyBaseUrl = proxyBaseUrl;
    this.apiKey = apiKey;
  }

  async sendMessage(messages) {
    try {
      const response = await fetch(`${this.proxyBaseUrl}/chat/completions`, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          Authorization: `Bearer ${this.apiKey}`,
          "X-Client-Info": "frontend-gateway/1.0",
        },
        body: JSON.stringify({
          model: "z-ai/glm-4-flash",
          messages: messages,
          temperature: 0.7,
          max_tokens: 1000,
        }),
      });

      if (!response.ok) {
        throw new Error(`HTTP ${response.status}: ${response.statusText}`);
      }

      const data = await response.json();
      return data.choices[0].message.content;
    } catch (error) {
      console.error("Gateway request failed:", error);
      throw new GatewayError(`Failed to get response: ${error.message}`);
    }
  }

  async *streamMessage(messages) {
    const response = await fetch(`${this.proxyBaseUrl}/chat/completions`, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        Authorization: `Bearer ${this.apiKey}`,
        Accept: "text/event-stream",
        "Cache-Control": "no-cache",
        Connection: "keep-alive",
      },
      body: JSON.stringify({
        model: "z-ai/glm-4-flash",
        messages: messages,
        temperature: 0.7,
        stream: true,
      }),
    });

    if (!response.ok) {
      throw new Error(`HTTP ${response.status}: ${response.statusText}`);
    }

    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let buffer = "";

    try {
      while (true) {
        const { done, value } = await reader.read();
        if (done) break;

        buffer += decoder.decode(value, { stream: true });
        const lines = buffer.split("\n");
        buffer = lines.pop() || "";

        for (const line of lines) {
          if (line.startsWith("data: ")) {
            const data = line.substring(6);
            if (data === "[DONE]") {
              return;
            }

            try {
              const parsed = JSON.parse(data);
              const content = parsed.choices[0]?.delta?.content;
              if (content) {
                yield content;
              }
            } catch (e) {
              // Skip malformed JSON
            }
          }
        }
      }
    } finally {
      reader.releaseLock();
    }
  }
}

await run(async (job) => {
  const client = new FrontendGatewayClient(job.baseURL, job.key);
  const messages = [{ role: "user", content: "Hello" }];
  const content = await client.sendMessage(messages);
  const words = [];
  for await (const word of client.streamMessage(messages)) words.push(word);
  const stranger = new FrontendGatewayClient(job.baseURL, "sk-unknown");
  const sent = await thrownBy(() => stranger.sendMessage(messages));
  const streamed = await thrownBy(() => stranger.streamMessage(messages).next());
  return { content, words, sent: sent.message, streamed: streamed.message };
});
