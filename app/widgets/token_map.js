// The tokens of a layer's input map: a click or an arrow key moves the token here at once, and tells the server after.
const SVG = "http://www.w3.org/2000/svg"
const TELL_AFTER = 150 // ms without another arrow key
const WAIT = 3000 // ms that the server may take to follow

function add(parent, name, attributes) {
  const element = document.createElementNS(SVG, name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  parent.append(element)
  return element
}

const modulo = (a, n) => ((a % n) + n) % n

function draw(map, svg) {
  const { height, width, image, sources, stride } = map.data
  svg.setAttribute("viewBox", `-0.1 -0.1 ${width + 0.2} ${height + 0.2}`)
  svg.replaceChildren()
  if (image) {
    add(svg, "image", { href: image, width, height, preserveAspectRatio: "none", style: "image-rendering: pixelated" })
    add(svg, "rect", { width, height, class: "veil" })
  }
  if (Math.max(height, width) <= 32) {
    for (let r = 0; r <= height; r++) add(svg, "line", { x1: 0, x2: width, y1: r, y2: r, class: "grid" })
    for (let c = 0; c <= width; c++) add(svg, "line", { x1: c, x2: c, y1: 0, y2: height, class: "grid" })
  }
  const top = map.row * stride, left = map.col * stride
  for (const { dr, dc, color, radius, wraps } of sources) {
    const row = wraps ? modulo(top + dr, height) : top + dr
    const col = wraps ? modulo(left + dc, width) : left + dc
    if (row < 0 || row >= height || col < 0 || col >= width) continue
    add(svg, "circle", { cx: col + 0.5, cy: row + 0.5, r: radius, fill: color })
  }
  add(svg, "rect", { x: left, y: top, width: stride, height: stride, class: "token" })
}

export default function ({ data, parentElement, setTriggerValue }) {
  const svg = parentElement.querySelector("svg")
  const status = parentElement.querySelector("[role=status]")
  const rows = Math.ceil(data.height / data.stride), cols = Math.ceil(data.width / data.stride)
  const map = (svg.map ??= {})
  // What the server has not heard of yet is not taken back, unless another layer is shown.
  const same = map.data?.layer === data.layer
  const heard = map.row === data.row && map.col === data.col
  if (!same || heard || !(Date.now() - map.told < WAIT)) Object.assign(map, { row: data.row, col: data.col, told: 0 })
  map.data = data

  const show = () => {
    draw(map, svg)
    const place = `row ${map.row} of 0 to ${rows - 1}, column ${map.col} of 0 to ${cols - 1}`
    svg.setAttribute("aria-label", `Token map: ${place}. Arrow keys move the token.`)
    svg.dataset.row = map.row
    svg.dataset.col = map.col
  }
  const move = (row, col, wait) => {
    row = Math.min(Math.max(row, 0), rows - 1)
    col = Math.min(Math.max(col, 0), cols - 1)
    if (row === map.row && col === map.col) return
    Object.assign(map, { row, col, told: Date.now() })
    show()
    status.textContent = `Row ${row}, column ${col}`
    clearTimeout(map.timer)
    map.timer = setTimeout(() => setTriggerValue("token", { row, col }), wait)
  }
  svg.onpointerdown = event => {
    const box = svg.getBoundingClientRect()
    const scale = (data.width + 0.2) / box.width
    const col = Math.floor((event.clientX - box.left) * scale - 0.1)
    const row = Math.floor((event.clientY - box.top) * scale - 0.1)
    move(Math.floor(row / data.stride), Math.floor(col / data.stride), 0)
  }
  svg.onkeydown = event => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key]
    if (!step) return
    event.preventDefault()
    move(map.row + step[0], map.col + step[1], TELL_AFTER)
  }
  show()
}
