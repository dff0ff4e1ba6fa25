// Sends a batch with the amounts that are its arguments, and asks what became of
// it, with a client that @hey-api/openapi-ts has made.
import { batch, env, read, write } from "./exact.js";
import { client } from "./hey-api-client/client.gen.js";
import { checkStatus, createClients, getRecord, issueToken } from "./hey-api-client/sdk.gen.js";
import type { BatchAnswer, Item, Problem } from "./hey-api-client/types.gen.js";

const name = "hey-api";
client.setConfig({ baseUrl: env("INTAKE_URL") });
const token = await issueToken({
  body: { grant_type: "client_credentials", client_id: env("INTAKE_CLIENT_ID"), client_secret: env("INTAKE_CLIENT_SECRET") },
});
client.setConfig({ auth: token.data!.access_token });
const exact = { bodySerializer: write, parseAs: "text" as const };

function report(what: string, answer: BatchAnswer) {
  for (const { data, status } of answer.result) {
    const sent = data as Item;
    console.log(what, sent.partner_client_id, status.state, status.code, String(sent.revenue_claims![0].total_amount));
  }
}

const created = await createClients({ body: batch(name), ...exact });
const answer = read(created.data) as BatchAnswer;
report("answer", answer);
const status = await checkStatus({ path: { status_check_id: answer.status_check_id! }, ...exact });
report("status", read(status.data) as BatchAnswer);
const record = await getRecord({ path: { partner_client_id: `${name}-0` } });
console.log("record", record.data!.partner_client_id, record.data!.revenue_claims, record.data!.status_check_id === answer.status_check_id);

const empty = (await createClients({ body: [] })).error as Problem;
console.log("refused", empty.status, empty.code);
const stranger = (await createClients({ body: batch(name), bodySerializer: write, auth: "x" })).error as Problem;
console.log("refused", stranger.status, stranger.code);
