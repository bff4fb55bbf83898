// What the originals' worker does, for comparison: sharp, with the S3 client loaded, from a buffer into a buffer.
//   node sharp_peer.js convert FILE…   one JSON line a file: {"cpu_ms", "bytes", "peak_mb"}
//   node sharp_peer.js start URL       asks for an object and ends
const { readFileSync } = require('node:fs')
const sharp = require('sharp')
const { S3Client, GetObjectCommand } = require('@aws-sdk/client-s3')

async function convert (files) {
  for (const file of files) {
    const before = process.cpuUsage()
    const out = await sharp(readFileSync(file)).jpeg({ quality: 95, mozjpeg: true }).toBuffer()
    const { user, system } = process.cpuUsage(before)
    const peak = process.resourceUsage().maxRSS / 1024
    console.log(JSON.stringify({ cpu_ms: (user + system) / 1000, bytes: out.length, peak_mb: peak }))
  }
}

async function start (endpoint) {
  const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' }
  const client = new S3Client({ region: 'auto', endpoint, forcePathStyle: true, maxAttempts: 1, credentials })
  await client.send(new GetObjectCommand({ Bucket: 'bucket', Key: 'p.tif' })).catch(() => {})
}

const [, , what, ...rest] = process.argv
if (what === 'convert') convert(rest)
else start(rest[0])
