-- The header fields of an AWS SDK, and, where the path says UNIQUE, a new key for every request.
local unique = 0
local host = "s3.bench.test"

function init(args)
  host = args[1] or host
  wrk.headers["Host"] = host
  wrk.headers["User-Agent"] = "Boto3/1.44.5 md/Botocore#1.44.5 ua/2.1 os/linux md/arch#x86_64 lang/python#3.11.7"
  wrk.headers["Accept-Encoding"] = "identity"
  wrk.headers["X-Amz-Date"] = "20261122T131232Z"
  wrk.headers["X-Amz-Content-SHA256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  wrk.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261122/us-east-1/s3/aws4_request, " ..
    "SignedHeaders=host;x-amz-content-sha256;x-amz-date, " ..
    "Signature=74dc86eb168ab23316a8b27eb0bfcc82f31a6c26368b36ae37b236d2001c9493"
  wrk.headers["amz-sdk-invocation-id"] = "1493e323-4bc3-48bf-907e-55eec254552b"
  wrk.headers["amz-sdk-request"] = "attempt=1; max=3"
end

function request()
  if not wrk.path:find("UNIQUE") then
    return wrk.format()
  end
  unique = unique + 1
  return wrk.format(nil, (wrk.path:gsub("UNIQUE", tostring(unique))))
end
