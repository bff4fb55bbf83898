#!/bin/sh
# Make the certificate of one node of a Ray cluster: RAY_USE_TLS=1 wants one for each, since who calls a node compares
# the address that it called with those in the certificate.
#
#   node_certificate.sh CA_FOLDER TLS_FOLDER [ADDRESS …]
#
# CA_FOLDER has ca.crt and ca.key; TLS_FOLDER gets ca.crt, tls.crt and tls.key. Without addresses they are those of this
# node. A certificate is valid for a year: nodes live shorter, and each start makes a new one.
# The authority itself, once for a cluster:
#   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
#     -subj /CN=arke-cluster -keyout ca.key -out ca.crt
set -eu
umask 077
authority=$1
folder=$2
shift 2
[ $# -gt 0 ] || set -- 127.0.0.1 $(hostname -I 2>/dev/null || hostname -i)
names="DNS:localhost,DNS:$(hostname)"
for address in "$@"; do
    names="$names,IP:$address"
done

mkdir -p "$folder"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=arke-node \
    -keyout "$folder/tls.key" -out "$folder/tls.csr" 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "$folder/tls.ext"
# Valid since yesterday: a node whose clock is an hour behind could talk to nobody else. The serial number is drawn: nodes
# that start together share no file to count in.
: > "$folder/index.txt"
cat > "$folder/ca.conf" <<END
[ca]
default_ca = once
[once]
database = $folder/index.txt
new_certs_dir = $folder
default_md = sha256
rand_serial = yes
policy = any
[any]
commonName = supplied
END
openssl ca -batch -notext -config "$folder/ca.conf" -cert "$authority/ca.crt" -keyfile "$authority/ca.key" \
    -in "$folder/tls.csr" -extfile "$folder/tls.ext" -startdate "$(date -u -d '1 day ago' +%Y%m%d%H%M%SZ)" -days 365 \
    -out "$folder/tls.crt" 2>/dev/null
cp "$authority/ca.crt" "$folder/ca.crt"
rm -f "$folder/tls.csr" "$folder/tls.ext" "$folder/ca.conf" "$folder"/index.txt* "$folder"/*.pem
