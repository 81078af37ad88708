// The rules for the widgets' scripts, which are joined to one module before they run: what one
// file declares at its top is known to all.

import { readdirSync, readFileSync } from "node:fs";

import js from "@eslint/js";

const SCRIPTS = new URL("../../xaiutils/widgets/", import.meta.url);
const DECLARATION = /^(?:async )?(?:function\*?|const|let|class) (\w+)/gm;
const BROWSER =
  "Blob CustomEvent DataView Image ImageData ResizeObserver URL Worker atob btoa " +
  "cancelAnimationFrame clearInterval clearTimeout console createImageBitmap crypto document " +
  "getComputedStyle matchMedia navigator performance queueMicrotask requestAnimationFrame " +
  "setInterval setTimeout structuredClone window";
const FROM_PYTHON = "SIGNED_COLOURS MAGNITUDE_COLOURS"; // xaiutils/widgets/_common.py

function declaredAnywhere() {
  const names = readdirSync(SCRIPTS).filter((name) => name.endsWith(".js"));
  const texts = names.map((name) => readFileSync(new URL(name, SCRIPTS), "utf8"));
  return texts.flatMap((text) => [...text.matchAll(DECLARATION)].map(([, name]) => name));
}

const declared = declaredAnywhere();
const known = [...BROWSER.split(" "), ...FROM_PYTHON.split(" "), ...declared];

export default [
  js.configs.recommended,
  {
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "module",
      globals: Object.fromEntries(known.map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "max-len": ["error", { code: 100 }],
      "no-redeclare": ["error", { builtinGlobals: false }],
      "no-unused-vars": ["error", { varsIgnorePattern: `^(?:${declared.join("|")})$` }],
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      complexity: ["error", 12],
      curly: ["error", "multi-line"],
      eqeqeq: "error",
    },
  },
];
