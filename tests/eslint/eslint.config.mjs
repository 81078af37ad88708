// The rules for scripts. Those of widgets, and of the photograph's page, are joined to one before
// they run: what one file declares at its top is known to all.

import { readdirSync, readFileSync } from "node:fs";

import js from "@eslint/js";

const JOINED = ["../../xaiutils/widgets/", "../../assets/photograph/"].map((folder) => {
  return new URL(folder, import.meta.url);
});
const DECLARATION = /^(?:async )?(?:function\*?|const|let|class) (\w+)/gm;
const BROWSER =
  "Blob CustomEvent DataView Image ImageData ResizeObserver URL URLSearchParams Worker " +
  "XMLSerializer atob btoa cancelAnimationFrame clearInterval clearTimeout console " +
  "createImageBitmap crypto document getComputedStyle matchMedia navigator performance " +
  "queueMicrotask requestAnimationFrame setInterval setTimeout structuredClone window";
const FROM_PYTHON = "SIGNED_COLOURS MAGNITUDE_COLOURS"; // xaiutils/widgets/_common.py

function declaredAnywhere() {
  const texts = JOINED.flatMap((folder) => {
    const names = readdirSync(folder).filter((name) => name.endsWith(".js"));
    return names.map((name) => readFileSync(new URL(name, folder), "utf8"));
  });
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
