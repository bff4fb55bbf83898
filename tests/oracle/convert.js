// Converts files with sharp: `node convert.js < list`, a line "SOURCE\tTARGET" each. Prints a JSON object of the
// sources that sharp refuses, with what it says. Pixels above the limit are refused as sharp does by default.
const fs = require('fs');
const sharp = require('sharp');

async function convertAll(lines) {
  const refused = {};
  for (const line of lines) {
    const [source, target] = line.split('\t');
    try {
      await sharp(source).jpeg({ quality: 95, mozjpeg: true }).toFile(target);
    } catch (error) {
      refused[source] = error.message.split('\n')[0];
    }
  }
  return refused;
}

const lines = fs.readFileSync(0, 'utf8').split('\n').filter(Boolean);
convertAll(lines).then(
  (refused) => process.stdout.write(JSON.stringify(refused)),
  (error) => { console.error(error); process.exit(1); },
);
