// Looks each name up with Node: `lookup` asks the C library, `resolve` asks c-ares for A and AAAA
// and knows no search list. Prints one line a name: NAME took=SECONDS ADDRESS... or error=TEXT.
// Status 1 if any failed.
"use strict";
const dns = require("node:dns").promises;

async function lookup(name) {
  return (await dns.lookup(name, { all: true })).map((found) => found.address);
}

async function resolve(name) {
  const both = await Promise.allSettled([dns.resolve4(name), dns.resolve6(name)]);
  const found = both.flatMap((one) => one.value ?? []);
  if (found.length === 0) throw both[0].reason;
  return found;
}

async function main() {
  const [how, ...names] = process.argv.slice(2);
  for (const name of names) {
    const started = process.hrtime.bigint();
    let said;
    try {
      said = (await (how === "resolve" ? resolve : lookup)(name)).join(" ");
    } catch (error) {
      said = `error=${error.message}`;
      process.exitCode = 1;
    }
    const took = Number(process.hrtime.bigint() - started) / 1e9;
    console.log(`${name} took=${took.toFixed(6)} ${said}`);
  }
}

main();
