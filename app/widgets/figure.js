// Saves the chart of a given key as it stands on the page: its theme, zoom and hidden traces included.
const SVG = "http://www.w3.org/2000/svg"

// The page's own font, to go with the file: lines are cut to its width.
async function font(family) {
  const rules = [...document.styleSheets].flatMap(sheet => [...sheet.cssRules])
  const named = rules.filter(rule => rule instanceof CSSFontFaceRule
    && family.includes(rule.style.getPropertyValue("font-family").replaceAll('"', ""))
    && rule.style.getPropertyValue("font-style") !== "italic")
  const [, url] = named[0]?.cssText.match(/url\("([^"]+)"\)/) ?? []
  if (!url) return ""
  const reader = new FileReader()
  const blob = await (await fetch(new URL(url, named[0].parentStyleSheet.href ?? document.baseURI))).blob()
  await new Promise(resolve => { reader.onload = resolve; reader.readAsDataURL(blob) })
  return named[0].cssText.replace(/src:[^;]+;/, `src: url("${reader.result}");`)
}

async function drawing(key) {
  const layers = document.querySelectorAll(`.st-key-${CSS.escape(key)} .js-plotly-plot .main-svg`)
  if (!layers.length) throw new Error("The figure is not drawn yet; wait a moment and try again.")
  const { width, height } = layers[0].getBoundingClientRect()
  const svg = document.createElementNS(SVG, "svg")
  for (const [name, value] of Object.entries({ xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` }))
    svg.setAttribute(name, value)
  const ground = document.createElementNS(SVG, "rect")
  ground.setAttribute("width", "100%")
  ground.setAttribute("height", "100%")
  ground.setAttribute("fill", getComputedStyle(document.querySelector(".stApp")).backgroundColor)
  const style = document.createElementNS(SVG, "style")
  style.textContent = await font(getComputedStyle(layers[0].querySelector("text") ?? layers[0]).fontFamily)
  svg.append(style, ground, ...[...layers].map(layer => layer.cloneNode(true)))
  return { text: new XMLSerializer().serializeToString(svg), width, height }
}

async function png({ text, width, height }) {
  const image = new Image()
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }))
  try {
    await image.decode()
    const canvas = document.createElement("canvas")
    canvas.width = 2 * width // sharp on dense screens and in print
    canvas.height = 2 * height
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height)
    return await new Promise(resolve => canvas.toBlob(resolve, "image/png"))
  } finally {
    URL.revokeObjectURL(image.src)
  }
}

async function save(key, name, kind) {
  const found = await drawing(key)
  const blob = kind === "svg" ? new Blob([found.text], { type: "image/svg+xml" }) : await png(found)
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = `${name}.${kind}`
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}

export default function ({ data, parentElement }) {
  const status = parentElement.querySelector("[role=status]")
  for (const button of parentElement.querySelectorAll("button"))
    button.onclick = () => {
      status.textContent = ""
      save(data.chart, data.name, button.value).catch(error => (status.textContent = error.message))
    }
}
