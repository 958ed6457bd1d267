/* SPDX-License-Identifier: Apache-2.0 */
/* An open62541 server that reads a fault plan (plans.py): server_c PLAN.json. Says its port on standard output, ends with its input. */
#include <open62541/plugin/accesscontrol_default.h>
#include <open62541/plugin/log_stdout.h>
#include <open62541/plugin/pki_default.h>
#include <open62541/server.h>
#include <open62541/server_config_default.h>
#include <poll.h>
#include <unistd.h>

#include "plan.h"

/* What the observer sees of a planted node; -1 = as the stack has it. A liar shows *shown* and obeys *level*. */
typedef struct { int level, executable, lies, asked; int64_t mask; } Planted;

static UA_AccessControl stock;
static UA_Boolean hardened;
static char ENGINEER[] = "engineer", OBSERVER[] = "observer";

static UA_StatusCode activate(UA_Server *server, UA_AccessControl *ac, const UA_EndpointDescription *endpoint, const UA_ByteString *certificate,
                              const UA_NodeId *session, const UA_ExtensionObject *token, void **context) {
    void *kept = NULL;
    UA_StatusCode status = stock.activateSession(server, ac, endpoint, certificate, session, token, &kept);
    *context = OBSERVER;
    if(token->content.decoded.type == &UA_TYPES[UA_TYPES_USERNAMEIDENTITYTOKEN]) {
        const UA_String *name = &((const UA_UserNameIdentityToken *)token->content.decoded.data)->userName;
        if(name->length == 8 && !memcmp(name->data, ENGINEER, 8)) *context = ENGINEER;
    }
    if(kept) UA_ByteString_delete((UA_ByteString *)kept);
    return status;
}

static void closed(UA_Server *server, UA_AccessControl *ac, const UA_NodeId *session, void *context) {}

static UA_Byte level(UA_Server *server, UA_AccessControl *ac, const UA_NodeId *session, void *context, const UA_NodeId *node, void *own) {
    Planted *planted = (Planted *)own;
    if(context == ENGINEER || session->namespaceIndex == 0 && session->identifierType == UA_NODEIDTYPE_GUID && session->identifier.guid.data1 == 1)
        return 0xFF;
    if(planted && planted->lies) return planted->asked++ ? 0xFF : UA_ACCESSLEVELMASK_READ; /* clear for who asks, open from then on */
    if(planted && planted->level >= 0) return (UA_Byte)planted->level;
    return UA_ACCESSLEVELMASK_READ | UA_ACCESSLEVELMASK_HISTORYREAD;
}

static UA_UInt32 mask(UA_Server *server, UA_AccessControl *ac, const UA_NodeId *session, void *context, const UA_NodeId *node, void *own) {
    Planted *planted = (Planted *)own;
    return planted && planted->mask >= 0 ? (UA_UInt32)planted->mask : 0;
}

static UA_Boolean executable(UA_Server *server, UA_AccessControl *ac, const UA_NodeId *session, void *context, const UA_NodeId *node, void *own) {
    Planted *planted = (Planted *)own;
    if(node->namespaceIndex == 0) return !hardened;
    return planted && planted->executable == 1;
}

static UA_Boolean executable_on(UA_Server *server, UA_AccessControl *ac, const UA_NodeId *session, void *context, const UA_NodeId *node, void *own,
                                const UA_NodeId *object, void *object_own) {
    return executable(server, ac, session, context, node, own);
}

static UA_StatusCode nothing(UA_Server *server, const UA_NodeId *session, void *context, const UA_NodeId *method, void *own, const UA_NodeId *object,
                             void *object_own, size_t in_size, const UA_Variant *in, size_t out_size, UA_Variant *out) {
    return UA_STATUSCODE_GOOD;
}

static UA_NodeId id_of(const char *text) {
    UA_NodeId id;
    if(UA_NodeId_parse(&id, UA_STRING((char *)(uintptr_t)text)) != UA_STATUSCODE_GOOD) json_die(text);
    return id;
}

static void must(UA_StatusCode status, const char *what) {
    if(status != UA_STATUSCODE_GOOD) { fprintf(stderr, "%s: %s\n", what, UA_StatusCode_name(status)); exit(2); }
}

static void add(UA_Server *server, const Json *node) {
    UA_NodeId id = id_of(json_text(node, "id")), parent = id_of(json_text(node, "parent"));
    UA_NodeId reference = UA_NODEID_NUMERIC(0, (UA_UInt32)json_number(node, "reference", 47));
    UA_QualifiedName name = UA_QUALIFIEDNAME(id.namespaceIndex, (char *)(uintptr_t)json_text(node, "name"));
    const Json *set = json_get(node, "set");
    Planted *planted = (Planted *)calloc(1, sizeof(Planted));
    planted->level = (int)json_number(set, "18", -1);
    planted->mask = (int64_t)json_number(set, "7", -1);
    planted->executable = (int)json_number(set, "22", -1);
    planted->lies = (int)json_number(node, "lies", 0);
    UA_UInt32 write_mask = (UA_UInt32)json_number(set, "6", 0);
    int node_class = (int)json_number(node, "class", 1);
    UA_StatusCode status;
    if(node_class == 2) {
        UA_VariableAttributes attr = UA_VariableAttributes_default;
        const Json *value = json_get(node, "value");
        UA_Double number = value && value->kind == 'n' ? value->number : 0.0;
        UA_String text = value && value->kind == 's' ? UA_STRING(value->text) : UA_STRING_NULL;
        UA_Boolean is_text = value && value->kind == 's';
        UA_Variant_setScalar(&attr.value, is_text ? (void *)&text : (void *)&number, &UA_TYPES[is_text ? UA_TYPES_STRING : UA_TYPES_DOUBLE]);
        attr.dataType = UA_TYPES[is_text ? UA_TYPES_STRING : UA_TYPES_DOUBLE].typeId;
        attr.valueRank = UA_VALUERANK_SCALAR;
        attr.accessLevel = (UA_Byte)json_number(set, "17", planted->level >= 0 ? planted->level : 1);
        attr.writeMask = write_mask;
        attr.displayName = UA_LOCALIZEDTEXT("", (char *)name.name.data);
        UA_NodeId type = UA_NODEID_NUMERIC(0, reference.identifier.numeric == 46 ? UA_NS0ID_PROPERTYTYPE : UA_NS0ID_BASEDATAVARIABLETYPE);
        status = UA_Server_addVariableNode(server, id, parent, reference, name, type, attr, planted, NULL);
    } else if(node_class == 4) {
        UA_MethodAttributes attr = UA_MethodAttributes_default;
        attr.executable = json_number(set, "21", 1) != 0;
        attr.writeMask = write_mask;
        status = UA_Server_addMethodNode(server, id, parent, reference, name, attr, nothing, 0, NULL, 0, NULL, planted, NULL);
    } else {
        UA_ObjectAttributes attr = UA_ObjectAttributes_default;
        attr.writeMask = write_mask;
        status = UA_Server_addObjectNode(server, id, parent, reference, name, UA_NODEID_NUMERIC(0, UA_NS0ID_FOLDERTYPE), attr, planted, NULL);
    }
    must(status, json_text(node, "id"));
}

/* *count* Variables in folders of a hundred, ten folders in a hall. */
static void bulk(UA_Server *server, UA_UInt32 count) {
    char name[32];
    UA_NodeId hall = UA_NODEID_NUMERIC(0, UA_NS0ID_OBJECTSFOLDER), folder = hall;
    UA_ObjectAttributes object = UA_ObjectAttributes_default;
    UA_VariableAttributes attr = UA_VariableAttributes_default;
    UA_Double zero = 0.0;
    UA_Variant_setScalar(&attr.value, &zero, &UA_TYPES[UA_TYPES_DOUBLE]);
    attr.dataType = UA_TYPES[UA_TYPES_DOUBLE].typeId;
    attr.valueRank = UA_VALUERANK_SCALAR;
    for(UA_UInt32 i = 0; i < count; i++) {
        if(i % 100 == 0) {
            if(i % 1000 == 0) {
                snprintf(name, sizeof(name), "Hall%u", i / 1000);
                hall = UA_NODEID_NUMERIC(2, 2000000 + i);
                must(UA_Server_addObjectNode(server, hall, UA_NODEID_NUMERIC(0, UA_NS0ID_OBJECTSFOLDER), UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES),
                                             UA_QUALIFIEDNAME(2, name), UA_NODEID_NUMERIC(0, UA_NS0ID_FOLDERTYPE), object, NULL, NULL), name);
            }
            snprintf(name, sizeof(name), "Folder%u", i / 100);
            folder = UA_NODEID_NUMERIC(2, 1000000 + i);
            must(UA_Server_addObjectNode(server, folder, hall, UA_NODEID_NUMERIC(0, UA_NS0ID_ORGANIZES), UA_QUALIFIEDNAME(2, name),
                                         UA_NODEID_NUMERIC(0, UA_NS0ID_FOLDERTYPE), object, NULL, NULL), name);
        }
        snprintf(name, sizeof(name), "Tag%u", i);
        must(UA_Server_addVariableNode(server, UA_NODEID_NUMERIC(2, 10000 + i), folder, UA_NODEID_NUMERIC(0, UA_NS0ID_HASCOMPONENT),
                                       UA_QUALIFIEDNAME(2, name), UA_NODEID_NUMERIC(0, UA_NS0ID_BASEDATAVARIABLETYPE), attr, NULL, NULL), name);
    }
}

/* What the one who started it asks for on standard input: d, a: the plan's first node goes, comes again. s: how many sessions there are. */
static void obey(UA_Server *server, const Json *plan, char order) {
    const Json *first = json_get(plan, "nodes")->first;
    if(order == 'd') must(UA_Server_deleteNode(server, id_of(json_text(first, "id")), true), "delete");
    if(order == 'a') add(server, first);
    if(order == 's') printf("{\"sessions\": %u}\n", (unsigned)UA_Server_getStatistics(server).ss.currentSessionCount);
    fflush(stdout);
}

static UA_ByteString bytes_of(const Json *plan, const char *key) {
    UA_ByteString found = UA_BYTESTRING_NULL;
    found.data = (UA_Byte *)file_bytes(json_text(plan, key), &found.length);
    return found;
}

int main(int argc, char **argv) {
    if(argc != 2) json_die("one plan");
    size_t size;
    const char *at = file_bytes(argv[1], &size);
    Json *plan = json_value(&at), *limits = json_get(plan, "limits");
    hardened = json_number(plan, "hardened", 1) != 0;

    UA_ServerConfig config;
    memset(&config, 0, sizeof(config));
    UA_ByteString certificate = bytes_of(plan, "certificate_der"), key = bytes_of(plan, "key_der"), trusted = bytes_of(plan, "trusted_der");
    config.logging = UA_Log_Stdout_new(UA_LOGLEVEL_FATAL);
    UA_UInt16 port = (UA_UInt16)json_number(plan, "port", 4840);
    must(UA_ServerConfig_setBasics_withPort(&config, port), "setBasics");
    UA_String_clear(&config.serverUrls[0]);
    char url[64];
    snprintf(url, sizeof(url), "opc.tcp://127.0.0.1:%u", port);
    config.serverUrls[0] = UA_STRING_ALLOC(url);
    config.tcpReuseAddr = true;
    UA_String_clear(&config.applicationDescription.applicationUri);
    config.applicationDescription.applicationUri = UA_STRING_ALLOC(json_text(plan, "uri"));
    must(UA_ServerConfig_addSecurityPolicyNone(&config, &certificate), "None");
    config.securityPolicyNoneDiscoveryOnly = true;
    if(json_number(plan, "auto_trust", 0) != 0) {
        UA_CertificateVerification_AcceptAll(&config.secureChannelPKI);
        UA_CertificateVerification_AcceptAll(&config.sessionPKI);
    } else {
        must(UA_CertificateVerification_Trustlist(&config.secureChannelPKI, &trusted, 1, NULL, 0, NULL, 0), "trust");
        must(UA_CertificateVerification_Trustlist(&config.sessionPKI, &trusted, 1, NULL, 0, NULL, 0), "trust");
    }
    UA_UsernamePasswordLogin logins[2] = {{UA_STRING("observer"), UA_STRING("secret")}, {UA_STRING("engineer"), UA_STRING("e-secret")}};
    const char *first = "";
    for(Json *one = json_get(plan, "endpoints")->first; one; one = one->next) {
        const char *policy = one->first->text, *mode = one->first->next->text;
        char uri[128];
        snprintf(uri, sizeof(uri), "http://opcfoundation.org/UA/SecurityPolicy#%s", policy);
        if(!strcmp(policy, "None")) config.securityPolicyNoneDiscoveryOnly = false;
        else {
            UA_Boolean known = false;
            for(size_t i = 0; i < config.securityPoliciesSize; i++)
                known |= !strncmp((char *)config.securityPolicies[i].policyUri.data, uri, strlen(uri));
            if(!known && !strcmp(policy, "Basic256Sha256")) must(UA_ServerConfig_addSecurityPolicyBasic256Sha256(&config, &certificate, &key), policy);
            if(!known && !strcmp(policy, "Basic256")) must(UA_ServerConfig_addSecurityPolicyBasic256(&config, &certificate, &key), policy);
            if(!known && !strcmp(policy, "Basic128Rsa15")) must(UA_ServerConfig_addSecurityPolicyBasic128Rsa15(&config, &certificate, &key), policy);
            if(!*first) first = policy;
        }
        UA_MessageSecurityMode how = !strcmp(mode, "None") ? UA_MESSAGESECURITYMODE_NONE
            : !strcmp(mode, "Sign") ? UA_MESSAGESECURITYMODE_SIGN : UA_MESSAGESECURITYMODE_SIGNANDENCRYPT;
        must(UA_ServerConfig_addEndpoint(&config, UA_STRING(uri), how), uri);
    }
    UA_String password_policy = UA_STRING("http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256");
    if(json_number(plan, "clear_password", 0) != 0) {
        password_policy = UA_STRING("http://opcfoundation.org/UA/SecurityPolicy#None");
        config.allowNonePolicyPassword = true;
    }
    must(UA_AccessControl_default(&config, json_number(plan, "anonymous", 0) != 0, &password_policy, 2, logins), "access");
    stock = config.accessControl;
    config.accessControl.activateSession = activate;
    config.accessControl.closeSession = closed;
    config.accessControl.getUserAccessLevel = level;
    config.accessControl.getUserRightsMask = mask;
    config.accessControl.getUserExecutable = executable;
    config.accessControl.getUserExecutableOnObject = executable_on;
    config.maxNodesPerRead = (UA_UInt32)json_number(limits, "read", 0);
    config.maxNodesPerBrowse = (UA_UInt32)json_number(limits, "browse", 0);
    if(json_number(limits, "sessions", 0) > 0) config.maxSessions = (UA_UInt16)json_number(limits, "sessions", 0);

    UA_Server *server = UA_Server_newWithConfig(&config);
    if(!server) json_die("the server cannot be made");
    for(Json *one = json_get(plan, "namespaces")->first; one; one = one->next) UA_Server_addNamespace(server, one->text);
    bulk(server, (UA_UInt32)json_number(plan, "bulk", 0));
    for(Json *one = json_get(plan, "nodes")->first; one; one = one->next) add(server, one);
    for(Json *one = json_get(plan, "references")->first; one; one = one->next) {
        UA_ExpandedNodeId target;
        memset(&target, 0, sizeof(target));
        target.nodeId = id_of(one->first->next->next->text);
        must(UA_Server_addReference(server, id_of(one->first->text), UA_NODEID_NUMERIC(0, (UA_UInt32)one->first->next->number), target, true), "reference");
    }
    for(Json *one = json_get(plan, "nodes")->first; one; one = one->next)
        if(json_number(one, "unlinked", 0) != 0) {
            UA_ExpandedNodeId target;
            memset(&target, 0, sizeof(target));
            target.nodeId = id_of(json_text(one, "id"));
            must(UA_Server_deleteReference(server, id_of(json_text(one, "parent")), UA_NODEID_NUMERIC(0, (UA_UInt32)json_number(one, "reference", 47)),
                                           true, target, true), "unlink");
        }
    /* Not before: the stack's own start browses, too. */
    UA_Server_getConfig(server)->maxReferencesPerNode = (UA_UInt32)json_number(limits, "references", 0);
    UA_Variant auditing;
    UA_Boolean yes = true;
    UA_Variant_setScalar(&auditing, &yes, &UA_TYPES[UA_TYPES_BOOLEAN]);
    UA_Server_writeValue(server, UA_NODEID_NUMERIC(0, UA_NS0ID_SERVER_AUDITING), auditing);
    must(UA_Server_run_startup(server), "start");
    printf("{\"port\": %u}\n", port);
    fflush(stdout);
    struct pollfd input = {0, POLLIN, 0};
    char order;
    while(true) {
        if(poll(&input, 1, 0) > 0) {
            if(read(0, &order, 1) <= 0) break;
            obey(server, plan, order);
        }
        UA_Server_run_iterate(server, true);
    }
    UA_Server_run_shutdown(server);
    UA_Server_delete(server);
    return 0;
}
