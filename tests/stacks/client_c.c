/* SPDX-License-Identifier: Apache-2.0 */
/* What a C programmer would write to read the rights of every node: client_c URL BATCH_BROWSE BATCH_READ [FOLDER]. With FOLDER (kit.Pki) it signs and logs
 * in as the audit does, without it is nobody over None. Prints {nodes, attributes, open, seconds}. */
#include <open62541/client.h>
#include <open62541/client_config_default.h>
#include <open62541/plugin/log_stdout.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { UA_NodeId id; UA_NodeClass node_class; } Node;
static Node *nodes;
static size_t known, room, *table, slots, open_rights, attributes;

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + (double)t.tv_nsec / 1e9; }

static void grow(void) {
    slots = slots ? slots * 2 : 4096;
    free(table);
    table = (size_t *)calloc(slots, sizeof(size_t));
    for(size_t i = 0; i < known; i++) {
        size_t at = UA_NodeId_hash(&nodes[i].id) & (slots - 1);
        while(table[at]) at = (at + 1) & (slots - 1);
        table[at] = i + 1;
    }
}

static void meet(const UA_NodeId *id, UA_NodeClass node_class) {
    if(known * 2 >= slots) grow();
    size_t at = UA_NodeId_hash(id) & (slots - 1);
    for(; table[at]; at = (at + 1) & (slots - 1))
        if(UA_NodeId_equal(&nodes[table[at] - 1].id, id)) return;
    if(known == room) nodes = (Node *)realloc(nodes, (room = room ? room * 2 : 4096) * sizeof(Node));
    UA_NodeId_copy(id, &nodes[known].id);
    nodes[known].node_class = node_class;
    table[at] = ++known;
}

static void take(const UA_BrowseResult *result) {
    for(size_t i = 0; i < result->referencesSize; i++)
        if(!result->references[i].nodeId.serverIndex) meet(&result->references[i].nodeId.nodeId, result->references[i].nodeClass);
}

static void check(UA_StatusCode status, const char *what) {
    if(status != UA_STATUSCODE_GOOD) { fprintf(stderr, "%s: %s\n", what, UA_StatusCode_name(status)); exit(1); }
}

static void follow(UA_Client *client, UA_ByteString point) {
    while(point.length) {
        UA_BrowseNextRequest request;
        UA_BrowseNextRequest_init(&request);
        request.continuationPoints = &point;
        request.continuationPointsSize = 1;
        UA_BrowseNextResponse response = UA_Client_Service_browseNext(client, request);
        check(response.responseHeader.serviceResult, "BrowseNext");
        UA_ByteString_clear(&point);
        take(&response.results[0]);
        UA_ByteString_copy(&response.results[0].continuationPoint, &point);
        UA_BrowseNextResponse_clear(&response);
    }
}

static void browse(UA_Client *client, size_t begin, size_t count) {
    UA_BrowseDescription *what = (UA_BrowseDescription *)UA_Array_new(count, &UA_TYPES[UA_TYPES_BROWSEDESCRIPTION]);
    for(size_t i = 0; i < count; i++) {
        UA_NodeId_copy(&nodes[begin + i].id, &what[i].nodeId);
        what[i].resultMask = UA_BROWSERESULTMASK_NODECLASS;
        what[i].includeSubtypes = true;
    }
    UA_BrowseRequest request;
    UA_BrowseRequest_init(&request);
    request.nodesToBrowse = what;
    request.nodesToBrowseSize = count;
    UA_BrowseResponse response = UA_Client_Service_browse(client, request);
    check(response.responseHeader.serviceResult, "Browse");
    for(size_t i = 0; i < response.resultsSize; i++) {
        UA_ByteString point = UA_BYTESTRING_NULL;
        take(&response.results[i]);
        UA_ByteString_copy(&response.results[i].continuationPoint, &point);
        follow(client, point);
    }
    UA_BrowseResponse_clear(&response);
    UA_Array_delete(what, count, &UA_TYPES[UA_TYPES_BROWSEDESCRIPTION]);
}

static void send_read(UA_Client *client, UA_ReadValueId *wanted, size_t count) {
    UA_ReadRequest request;
    UA_ReadRequest_init(&request);
    request.nodesToRead = wanted;
    request.nodesToReadSize = count;
    request.timestampsToReturn = UA_TIMESTAMPSTORETURN_NEITHER;
    UA_ReadResponse response = UA_Client_Service_read(client, request);
    check(response.responseHeader.serviceResult, "Read");
    for(size_t i = 0; i < response.resultsSize; i++) {
        const UA_DataValue *value = &response.results[i];
        UA_UInt32 attribute = wanted[i].attributeId;
        if(!value->hasValue || !value->value.data) continue;
        if(attribute == UA_ATTRIBUTEID_USERACCESSLEVEL) open_rights += (*(UA_Byte *)value->value.data & 0x6A) != 0;
        if(attribute == UA_ATTRIBUTEID_USERWRITEMASK) open_rights += *(UA_UInt32 *)value->value.data != 0;
        if(attribute == UA_ATTRIBUTEID_USEREXECUTABLE) open_rights += *(UA_Boolean *)value->value.data;
    }
    attributes += count;
    UA_ReadResponse_clear(&response);
}

static UA_ByteString file(const char *folder, const char *name) {
    char path[4096];
    UA_Byte data[8192];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *one = fopen(path, "rb");
    if(!one) { perror(path); exit(2); }
    UA_ByteString read = {fread(data, 1, sizeof(data), one), data}, kept;
    fclose(one);
    UA_ByteString_copy(&read, &kept);
    return kept;
}

static void as_the_audit(UA_ClientConfig *config, const char *folder) {
    UA_ByteString server = file(folder, "server.der");
    check(UA_ClientConfig_setDefaultEncryption(config, file(folder, "client.der"), file(folder, "client.key.der"), &server, 1, NULL, 0), "certificates");
    config->securityMode = UA_MESSAGESECURITYMODE_SIGN;
    config->securityPolicyUri = UA_STRING_ALLOC("http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256");
    UA_String_clear(&config->clientDescription.applicationUri);
    config->clientDescription.applicationUri = UA_STRING_ALLOC("urn:test:client");
}

int main(int argc, char **argv) {
    if(argc != 4 && argc != 5) return 2;
    static const UA_UInt32 COMMON[] = {2, 6, 7, 24, 25, 26}, VARIABLE[] = {17, 18, 27}, METHOD[] = {21, 22};
    size_t per_browse = (size_t)atol(argv[2]), per_read = (size_t)atol(argv[3]);
    UA_Client *client = UA_Client_new();
    UA_ClientConfig *config = UA_Client_getConfig(client);
    if(argc == 5) as_the_audit(config, argv[4]);
    else UA_ClientConfig_setDefault(config);
    config->logging->log = NULL;
    config->timeout = 60000;
    check(argc == 5 ? UA_Client_connectUsername(client, argv[1], "observer", "secret") : UA_Client_connect(client, argv[1]), "connect");
    double begin = now();
    UA_NodeId root = UA_NODEID_NUMERIC(0, UA_NS0ID_ROOTFOLDER);
    meet(&root, UA_NODECLASS_OBJECT);
    for(size_t at = 0; at < known;) {
        size_t count = known - at < per_browse ? known - at : per_browse;
        browse(client, at, count);
        at += count;
    }
    UA_ReadValueId *wanted = (UA_ReadValueId *)calloc(per_read, sizeof(UA_ReadValueId));
    size_t filled = 0;
    for(size_t i = 0; i < known; i++) {
        size_t own = nodes[i].node_class == UA_NODECLASS_VARIABLE ? 3 : nodes[i].node_class == UA_NODECLASS_METHOD ? 2 : 0;
        for(size_t j = 0; j < 6 + own; j++) {
            wanted[filled].nodeId = nodes[i].id;
            wanted[filled++].attributeId = j < 6 ? COMMON[j] : own == 3 ? VARIABLE[j - 6] : METHOD[j - 6];
            if(filled == per_read) { send_read(client, wanted, filled); filled = 0; }
        }
    }
    if(filled) send_read(client, wanted, filled);
    printf("{\"nodes\": %zu, \"attributes\": %zu, \"open\": %zu, \"seconds\": %.3f}\n", known, attributes, open_rights, now() - begin);
    UA_Client_disconnect(client);
    UA_Client_delete(client);
    return 0;
}
