// Reads a JSON array of objects that belong to operators, and prints what their schemas say against
// each: a line per mistake, nothing if all is well. Fails if it knows no schema.
//
// The schemas allow fields that they do not know, and a cluster drops those silently. A validator
// reads each field that it knows, so those that it did not read are mistakes as well.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PROMETHEUS =
  "prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1";
const SCHEMAS = {
  "monitoring.coreos.com/v1 ServiceMonitor": `${PROMETHEUS}ServiceMonitor.js`,
  "monitoring.coreos.com/v1 PrometheusRule": `${PROMETHEUS}PrometheusRule.js`,
  "keda.sh/v1alpha1 ScaledObject": "keda/_schemas/ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject.js",
};
const modules = pathToFileURL(`${process.argv[2]}/@kubernetes-models/`);

/** A copy that takes each field from `unread` when it is read. */
function watched(value, path, unread) {
  if (typeof value !== "object" || value === null) return value;
  const copy = Array.isArray(value) ? [] : {};
  for (const [name, inner] of Object.entries(value)) {
    const place = `${path}/${name}`;
    const field = watched(inner, place, unread);
    unread.add(place);
    const get = () => (unread.delete(place), field);
    Object.defineProperty(copy, name, { enumerable: true, get });
  }
  return copy;
}

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const { validate } = await import(new URL(SCHEMAS[`${object.apiVersion} ${object.kind}`], modules));
  const unread = new Set();
  if (!validate(watched(object, "", unread))) {
    for (const error of validate.errors) {
      console.log(`${object.kind}${error.instancePath}: ${error.keyword} ${JSON.stringify(error.params)}`);
    }
  }
  for (const place of unread) console.log(`${object.kind}${place}: no such field`);
}
