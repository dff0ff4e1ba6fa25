// Amounts have up to 19 digits, and a number of JavaScript carries 15 of any
// decimal. An amount that is taken from a text keeps them all, and is written
// into JSON as it is by the stringify of lossless-json, and read by its parse.
// Generated types call it a number, for that is what it is in JSON.
import { LosslessNumber, parse, stringify } from "lossless-json";

export const amount = (text: string) => new LosslessNumber(text) as unknown as number;

export const write = (body: unknown) => stringify(body)!;

// read is given what a client has read as text, whatever type it says that it is.
export const read = (text: unknown) => parse(text as string);

export const env = (name: string) => process.env[name] ?? "";

export function batch(client: string) {
  return process.argv.slice(2).map((text, i) => ({
    partner_client_id: `${client}-${i}`, entity_type: "SoleTrader",
    revenue_claims: [{
      start_date: "2025-01-01T00:00:00.000Z", end_date: "2025-01-31T23:59:59.999Z", time_period: "Monthly" as const,
      currency: "GBP", total_amount: amount(text), transaction_count: text.startsWith("-") ? -1 : 1,
    }],
  }));
}
