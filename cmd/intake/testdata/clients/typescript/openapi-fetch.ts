// Sends a batch with the amounts that are its arguments, and asks what became of
// it, with openapi-fetch and types that openapi-typescript has made.
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi-typescript.js";
import { batch, env, read, write } from "./exact.js";

type Schemas = components["schemas"];

const name = "openapi-fetch";
const form = createClient<paths>({ baseUrl: env("INTAKE_URL") });
const token = await form.POST("/oauth/token", {
  body: { grant_type: "client_credentials", client_id: env("INTAKE_CLIENT_ID"), client_secret: env("INTAKE_CLIENT_SECRET") },
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
const client = createClient<paths>({
  baseUrl: env("INTAKE_URL"), bodySerializer: write,
  headers: { Authorization: `Bearer ${token.data!.access_token}`, "Content-Type": "application/json" },
});

function report(what: string, answer: Schemas["BatchAnswer"]) {
  for (const { data, status } of answer.result) {
    const sent = data as Schemas["Item"];
    console.log(what, sent.partner_client_id, status.state, status.code, String(sent.revenue_claims![0].total_amount));
  }
}

const created = await client.POST("/api/v1/clients", { body: batch(name), parseAs: "text" });
const answer = read(created.data) as Schemas["BatchAnswer"];
report("answer", answer);
const status = await client.GET("/api/v1/clients/status/{status_check_id}", {
  params: { path: { status_check_id: answer.status_check_id! } }, parseAs: "text",
});
report("status", read(status.data) as Schemas["BatchAnswer"]);
const record = await client.GET("/api/v1/clients/{partner_client_id}", { params: { path: { partner_client_id: `${name}-0` } } });
console.log("record", record.data!.partner_client_id, record.data!.revenue_claims, record.data!.status_check_id === answer.status_check_id);

const empty = await client.POST("/api/v1/clients", { body: [] });
console.log("refused", empty.error!.status, empty.error!.code);
const stranger = await client.POST("/api/v1/clients", { body: batch(name), headers: { Authorization: "Bearer x" } });
console.log("refused", stranger.error!.status, stranger.error!.code);
