// Readable page of the service's OpenAPI description.

import { at } from "./show.js";

function element(name, text = "", ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function table(caption, rows) {
  const body = element("tbody");
  for (const [head, ...cells] of rows) {
    const first = element("th", "", element("code", head));
    first.scope = "row";
    body.append(element("tr", "", first, ...cells.map((cell) => element("td", cell))));
  }
  const whole = element("table", "", element("caption", caption), body);
  const around = element("div", "", whole);
  around.className = "table";
  return around;
}

/** A schema in a few words. */
function words(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(words).join(" or ");
  if (schema.type === "array") return `list of ${words(schema.items)}`;
  if (schema.additionalProperties) return `text → ${words(schema.additionalProperties)}`;
  return { string: "text", integer: "whole number", boolean: "true or false" }[schema.type] ?? schema.type ?? "anything";
}

function route(path, method, { summary, description, parameters = [], requestBody, responses, security }) {
  const head = element("h2", "", Object.assign(element("code", method.toUpperCase()), { className: "method" }), " ", element("code", path));
  head.id = `${method}${path}`.replaceAll(/[^a-z0-9]+/g, "-");
  const section = element("section", "", head, element("p", description ?? summary));
  section.setAttribute("aria-labelledby", head.id);
  if (security) section.append(element("p", "Needs the key of the service, if it has one: X-API-Key, or a bearer token."));
  if (requestBody) section.append(table("Body", Object.keys(requestBody.content).map((kind) => [kind, kind.startsWith("multipart") ? "one or many images" : "one image"])));
  if (parameters.length) section.append(table("Parameters", parameters.map((one) => [one.name, `in the ${one.in}`, words(one.schema), one.description ?? ""])));
  section.append(table("Answers", Object.entries(responses).map(([code, one]) => [code, one.description, words(Object.values(one.content ?? {})[0]?.schema)])));
  return section;
}

function shape(name, { properties = {}, description }) {
  const head = element("h2", "", element("code", name));
  head.id = `shape-${name}`;
  const rows = Object.entries(properties).map(([key, one]) => [key, words(one), one.description ?? ""]);
  const section = element("section", "", head, element("p", description ?? ""), table("Fields", rows));
  section.setAttribute("aria-labelledby", head.id);
  return section;
}

at("example").textContent = [
  `curl -H "Content-Type: image/jpeg" --data-binary @hand.jpg ${location.origin}/v1/predict`,
  `curl -F image=@one.jpg -F image=@two.jpg "${location.origin}/v1/predict?top=3"`,
].join("\n");
try {
  const described = await (await fetch("/openapi.json")).json();
  at("about").textContent = described.info.description.replaceAll(/\s+/g, " ").replaceAll("`", "");
  const routes = Object.entries(described.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, one]) => route(path, method, one)));
  const shapes = Object.entries(described.components.schemas).map(([name, one]) => shape(name, one));
  at("routes").replaceChildren(...routes, ...shapes);
} catch {
  at("routes").replaceChildren(element("p", "The service does not answer: reload this page."));
}
